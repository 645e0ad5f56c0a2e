package guest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// A guest boots under the newer QEMU, on the machine type that has PCI Express and an IOMMU.
func TestNewQEMU(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	qemu, err := NewQEMU(ctx, "../..")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	g, err := Start(ctx, Config{
		Name: "new", QEMU: qemu, Machine: "q35,kernel-irqchip=split", KernelArgs: "intel_iommu=on", Accel: "tcg",
		QEMUArgs: []string{"-device", "intel-iommu,intremap=on,caching-mode=on"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Kill()
	res, err := g.Run(ctx, "ls", "/sys/class/iommu")
	if err != nil || !strings.Contains(string(res.Stdout), "dmar0") {
		t.Fatalf("%v: %+v", err, res)
	}
}
