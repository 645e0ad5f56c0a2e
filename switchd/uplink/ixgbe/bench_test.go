package ixgbe

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

func BenchmarkForward32(b *testing.B) { benchmarkForward(b, 32) }
func BenchmarkForward64(b *testing.B) { benchmarkForward(b, 64) }

// benchmarkForward receives 64-byte frames and sends them on, as a worker does, with the NIC's part done by the same core: it writes the
// receive descriptors back and reports the transmit descriptors that asked for it. One operation is one frame.
func benchmarkForward(b *testing.B, burst int) {
	n, err := Open(eager{newPlain()}, Config{Queues: 1, Layout: mustLayout(b, ""), VLANBase: 1000, VLANStrip: true, Watch: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	if err := n.AddFilter(0, 0x525400000001, 1000); err != nil {
		b.Fatal(err)
	}
	n.down.Store(false)
	q := n.queues[0]
	rx, tx := (*q.rings.Load())[0], q.tx
	rx.drain.Store(false)
	received := make([]uplink.RxFrame, burst)
	sending := make([]uplink.TxFrame, burst)
	segments := make([]guestmem.Segment, burst)
	wire, reported := uint32(0), uint32(0)
	header := uplink.TxFrame{HeaderLen: ether.HeaderLen + ether.TagLen}
	ether.PutTag(header.Header[:], 1000)
	b.ReportAllocs()
	for done := 0; done < b.N; {
		for range burst { // the NIC receives
			rx.desc[wire&rxMask] = descriptor{hi: regs.RXD_STAT_DD | regs.RXD_STAT_EOP | regs.RXD_STAT_VP | 60<<regs.RXD_LEN_SHIFT | 1000<<regs.RXD_VLAN_SHIFT}
			wire++
		}
		got, err := q.Receive(received)
		if err != nil || got != burst {
			b.Fatalf("received %d of %d frames: %v", got, burst, err)
		}
		for i := range got {
			r := &received[i]
			f := &sending[i]
			f.Header, f.HeaderLen, f.Len = header.Header, header.HeaderLen, int(r.Len)+ether.TagLen
			segments[i] = guestmem.Segment{Addr: r.Addr + ether.HeaderLen, Len: r.Len - ether.HeaderLen}
			f.Segs = segments[i : i+1]
		}
		if sent, err := q.Send(sending[:got], nil); sent != got || err != nil {
			b.Fatalf("sent %d of %d frames: %v", sent, got, err)
		}
		for ; reported != tx.rsTail; reported++ { // the NIC reports
			tx.desc[tx.reports[reported%uint32(len(tx.reports))]&txMask].hi |= txDone
		}
		done += got
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpps")
}

// BenchmarkSend sends frames that lie in a guest's memory, 256 buffers in turn: copied and lent, by payload. One operation is one frame.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{64, 128, 256, 512, 1024, 1486, 9000} {
		for _, kind := range []string{"copied", "lent"} {
			b.Run(fmt.Sprintf("%d/%s", size, kind), func(b *testing.B) { benchmarkSend(b, size, kind == "lent") })
		}
	}
}

func benchmarkSend(b *testing.B, size int, lend bool) {
	n, err := Open(eager{newPlain()}, Config{Queues: 1, Layout: mustLayout(b, ""), MaxFrame: 9216, VLANBase: base, Watch: time.Hour,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	n.down.Store(false)
	m := guestMemory(b)
	var loan *uplink.InFlight
	if lend {
		if err := n.MapDMA(0, m); err != nil {
			b.Fatal(err)
		}
		loan = new(uplink.InFlight)
	}
	data, _ := m.User(1<<32, 1<<20)
	frames := make([]uplink.TxFrame, 256)
	for i := range frames {
		f := &frames[i]
		f.HeaderLen, f.Len = ether.HeaderLen+ether.TagLen, ether.HeaderLen+ether.TagLen+size
		ether.PutTag(f.Header[:], base)
		f.Segs = []guestmem.Segment{{Addr: data + guestmem.Ptr(i*max(2048, size)%(2<<20-size)), Len: uint32(size)}}
	}
	tx, reported := n.queues[0].tx, uint32(0)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += 32 {
		if sent, err := n.queues[0].Send(frames[done%256:done%256+32], loan); sent != 32 || err != nil {
			b.Fatalf("sent %d of 32 frames: %v", sent, err)
		}
		for ; reported != tx.rsTail; reported++ { // the NIC reports
			tx.desc[tx.reports[reported%uint32(len(tx.reports))]&txMask].hi |= txDone
		}
		if loan != nil && !loan.Done() {
			b.Fatal("not returned")
		}
	}
	if got := n.lost.lent.Load() > 0; got != (lend && size >= inPlaceFrom) {
		b.Fatalf("frames of %d bytes were lent: %v", size, got)
	}
}
