package ixgbe

import (
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
		if sent, err := q.Send(sending[:got]); sent != got || err != nil {
			b.Fatalf("sent %d of %d frames: %v", sent, got, err)
		}
		for ; reported != tx.rsTail; reported++ { // the NIC reports
			tx.desc[tx.reports[reported%uint32(len(tx.reports))]&txMask].hi |= txDone
		}
		done += got
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpps")
}
