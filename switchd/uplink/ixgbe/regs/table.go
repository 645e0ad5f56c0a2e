package regs

import (
	"fmt"
	"slices"
	"sync"
)

// Mode is how a register behaves beyond being memory.
type Mode uint8

const (
	RW    Mode = iota // memory, as far as the writable mask goes
	RO                // the device's alone
	RC                // a counter, cleared by reading
	RW1C              // writing a one clears the bit
	WO                // reads as zero
	Self              // some bits clear themselves when what they ask for is done
	Queue             // memory that may change only while its queue is disabled
)

// Register is a row of the table: Count registers, Stride bytes apart. The first has the index First.
type Register struct {
	Name     string
	Offset   uint32
	Stride   uint32
	Count    int
	First    int
	Mode     Mode
	Reset    uint32
	Writable uint32
	Section  string
	// Alias is the offset that the first of them stands for, where these are only another place of others, Stride of those apart; 0: none.
	Alias, AliasStride uint32
}

const all = 0xffffffff

func one(name string, offset uint32, m Mode, reset, writable uint32, section string) Register {
	return Register{Name: name, Offset: offset, Stride: 4, Count: 1, Mode: m, Reset: reset, Writable: writable, Section: section}
}

func array(name string, offset, stride uint32, count int, m Mode, section string) Register {
	return Register{Name: name, Offset: offset, Stride: stride, Count: count, Mode: m, Writable: all, Section: section}
}

func alias(name string, offset, stride uint32, count int, of, ofStride uint32, section string) Register {
	return Register{Name: name, Offset: offset, Stride: stride, Count: count, Alias: of, AliasStride: ofStride, Writable: all, Section: section}
}

// queues are a register of each queue: the lower 64 and the upper 64.
func queues(name string, offset uint32, m Mode, reset, writable uint32, section string) []Register {
	low := Register{Name: name, Offset: 0x1000 + offset, Stride: 0x40, Count: 64, Mode: m, Reset: reset, Writable: writable, Section: section}
	high := low
	high.Offset, high.First = 0xD000+offset, 64
	return []Register{low, high}
}

func txQueues(name string, offset uint32, m Mode, reset, writable uint32, section string) Register {
	return Register{Name: name, Offset: 0x6000 + offset, Stride: 0x40, Count: TXQueues, Mode: m, Reset: reset, Writable: writable, Section: section}
}

// Table lists the registers that the driver and other 82599 drivers use, in no particular order.
var Table = sync.OnceValue(func() []Register {
	t := []Register{
		one("CTRL", CTRL, Self, 0, all, "8.2.3.1.1"), alias("CTRL", 0x4, 4, 1, CTRL, 4, "8.2.3.1.1"),
		one("STATUS", STATUS, RO, STATUS_GIO, 0, "8.2.3.1.2"), one("CTRL_EXT", CTRL_EXT, RW, 0, all, "8.2.3.1.3"),
		one("ESDP", ESDP, RW, 0, all, "8.2.3.1.4"), one("I2CCTL", I2CCTL, RW, I2CCTL_CLK_OUT|I2CCTL_DATA_OUT, I2CCTL_CLK_OUT|I2CCTL_DATA_OUT, "8.2.3.1.5"),
		one("FRTIMER", FRTIMER, RO, 0, 0, "8.2.3.5.14"), one("LEDCTL", LEDCTL, RW, 0, all, "8.2.3.1.6"),
		one("EEC", EEC, RW, EEC_PRES|EEC_ARD|4<<EEC_SIZE_SHIFT, EEC_SK|EEC_CS|EEC_DI|EEC_REQ, "8.2.3.2.1"),
		one("EERD", EERD, Self, EERD_DONE, all, "8.2.3.2.2"), one("FLA", FLA, RW, 0, all, "8.2.3.2.3"),
		one("SWSM", SWSM, RW, 0, SWSM_SMBI|SWSM_SWESMBI, "8.2.3.4.9"), one("FWSM", FWSM, RO, 0, 0, "8.2.3.4.10"), one("FACTPS", FACTPS, RO, 0, 0, "8.2.3.4.12"),
		one("SW_FW_SYNC", SW_FW_SYN, RW, 0, all, "8.2.3.4.11"), one("GCR", GCR, RW, 0, all, "8.2.3.4.1"), one("GCR_EXT", GCR_EXT, RW, 0, all, "8.2.3.4.17"),
		one("EICR", EICR, RW1C, 0, all, "8.2.3.5.1"), one("EICS", EICS, WO, 0, all, "8.2.3.5.2"), one("EIAC", EIAC, RW, 0, all, "8.2.3.5.9"),
		one("EIMS", EIMS, RW, 0, all, "8.2.3.5.3"), one("EIMC", EIMC, WO, 0, all, "8.2.3.5.4"), one("EIAM", EIAM, RW, 0, all, "8.2.3.5.10"),
		one("EITRSEL", EITRSEL, RW, 0, all, "8.2.3.5.13"), one("GPIE", GPIE, RW, 0, all, "8.2.3.5.18"), one("IVAR_MISC", IVAR_MISC, RW, 0, all, "8.2.3.5.17"),
		array("EICS_EX", EICS_EX(0), 4, 2, WO, "8.2.3.5.6"), array("EIMS_EX", EIMS_EX(0), 4, 2, RW, "8.2.3.5.7"), array("EIMC_EX", EIMC_EX(0), 4, 2, WO, "8.2.3.5.8"),
		array("EIAM_EX", EIAM_EX(0), 4, 2, RW, "8.2.3.5.11"), array("IVAR", IVAR(0), 4, 64, RW, "8.2.3.5.16"), array("EITR", EITR(0), 4, 24, RW, "8.2.3.5.12"),
		{Name: "EITR", Offset: 0x12300, Stride: 4, Count: 105, First: 24, Writable: all, Section: "8.2.3.5.12"},
		one("FCRTV", FCRTV, RW, 0, all, "8.2.3.3.5"), one("FCCFG", FCCFG, RW, 0, all, "8.2.3.3.7"), array("FCTTV", FCTTV(0), 4, 4, RW, "8.2.3.3.2"),
		array("FCRTL", FCRTL(0), 4, 8, RW, "8.2.3.3.3"), array("FCRTH", FCRTH(0), 4, 8, RW, "8.2.3.3.4"), one("TFCS", 0xCE00, RO, 0, 0, "8.2.3.3.6"),
		one("FCTRL", FCTRL, RW, 0, all, "8.2.3.7.1"), one("VLNCTRL", VLNCTRL, RW, 0x8100, all, "8.2.3.7.2"), one("MCSTCTRL", MCSTCTRL, RW, 0, 7, "8.2.3.7.3"),
		one("RXCSUM", RXCSUM, RW, 0, all, "8.2.3.7.5"), one("RFCTL", RFCTL, RW, 0, all, "8.2.3.7.6"), one("MRQC", MRQC, RW, 0, all, "8.2.3.7.12"),
		alias("MRQC", 0x5818, 4, 1, MRQC, 4, "8.2.3.7.12"), one("RDRXCTL", RDRXCTL, RW, RDRXCTL_DMAIDONE, all, "8.2.3.8.8"), one("QDE", QDE, RW, 0, all, "8.2.3.27.6"),
		one("RXCTRL", RXCTRL, RW, 0, RXCTRL_RXEN, "8.2.3.8.10"), one("RTRUP2TC", RTRUP2TC, RW, 0, all, "8.2.3.10.4"), one("RTRPCS", RTRPCS, RW, 0, all, "8.2.3.10.1"),
		one("SECRXCTRL", SECRXCTRL, RW, 0, 3, "8.2.3.12.6"), one("SECRXSTAT", SECRXSTAT, RO, SECRXSTAT_RDY, 0, "8.2.3.12.7"),
		array("MTA", MTA(0), 4, 128, RW, "8.2.3.7.7"), array("PFUTA", PFUTA(0), 4, 128, RW, "8.2.3.27.12"),
		{Name: "RAL", Offset: RAL(0), Stride: 8, Count: RARs, Writable: all, Section: "8.2.3.7.8"},
		{Name: "RAH", Offset: RAH(0), Stride: 8, Count: RARs, Writable: RAH_AV | 0xffff, Section: "8.2.3.7.9"},
		alias("RAL", 0x5400, 8, 16, RAL(0), 8, "8.2.3.7.8"), alias("RAH", 0x5404, 8, 16, RAH(0), 8, "8.2.3.7.9"),
		array("MPSAR_LO", MPSAR_LO(0), 8, RARs, RW, "8.2.3.7.10"), array("MPSAR_HI", MPSAR_HI(0), 8, RARs, RW, "8.2.3.7.10"),
		array("VFTA", VFTA(0), 4, 128, RW, "8.2.3.7.11"), array("PSRTYPE", PSRTYPE(0), 4, 64, RW, "8.2.3.7.4"), alias("PSRTYPE", 0x5480, 4, 16, PSRTYPE(0), 4, "8.2.3.7.4"),
		array("RETA", RETA(0), 4, 32, RW, "8.2.3.7.13"), alias("RETA", 0x5C00, 4, 32, RETA(0), 4, "8.2.3.7.13"),
		array("RSSRK", RSSRK(0), 4, 10, RW, "8.2.3.7.14"), alias("RSSRK", 0x5C80, 4, 10, RSSRK(0), 4, "8.2.3.7.14"),
		array("FTQF", FTQF(0), 4, 128, RW, "8.2.3.7.19"), array("SAQF", 0xE000, 4, 128, RW, "8.2.3.7.16"), array("DAQF", 0xE200, 4, 128, RW, "8.2.3.7.17"),
		array("SDPQF", 0xE400, 4, 128, RW, "8.2.3.7.18"), array("L34TIMIR", 0xE800, 4, 128, RW, "8.2.3.7.20"), array("ETQF", 0x5128, 4, 8, RW, "8.2.3.7.15"),
		array("ETQS", 0xEC00, 4, 8, RW, "8.2.3.7.21"), one("SYNQF", 0xEC30, RW, 0, all, "8.2.3.7.22"), one("RQTC", 0xEC70, RW, 0, all, "8.2.3.7.23"),
		array("RXPBSIZE", RXPBSIZE(0), 4, 8, RW, "8.2.3.8.9"), array("RQSMR", RQSMR(0), 4, 32, RW, "8.2.3.23.71"), array("TQSM", TQSM(0), 4, 32, RW, "8.2.3.23.73"),
		one("VT_CTL", VT_CTL, RW, 0, VT_CTL_VT_EN|VT_CTL_DEFPL|VT_CTL_DIS_DEFPL|VT_CTL_REPLEN, "8.2.3.27.1"), one("PFDTXGSWC", PFDTXGSWC, RW, 0, PFDTXGSWC_LBE, "8.2.3.27.9"),
		array("VFRE", VFRE(0), 4, 2, RW, "8.2.3.27.4"), array("VFTE", VFTE(0), 4, 2, RW, "8.2.3.27.5"), array("VMTXSW", VMTXSW(0), 4, 2, RW, "8.2.3.27.11"),
		array("VMOLR", VMOLR(0), 4, Pools, RW, "8.2.3.27.14"), array("VLVF", VLVF(0), 4, VLVFs, RW, "8.2.3.27.15"), array("VLVFB", VLVFB(0), 4, 2*VLVFs, RW, "8.2.3.27.16"),
		array("VMVIR", VMVIR(0), 4, Pools, RW, "8.2.3.27.13"), array("PFVFSPOOF", PFVFSPOOF(0), 4, 8, RW, "8.2.3.27.8"), array("MRCTL", MRCTL(0), 4, 4, RW, "8.2.3.27.17"),
		array("VMRVLAN", VMRVLAN(0), 4, 8, RW, "8.2.3.27.18"), array("VMRVM", VMRVM(0), 4, 8, RW, "8.2.3.27.19"),
		one("DMATXCTL", DMATXCTL, RW, 0, all, "8.2.3.9.2"), one("DTXMXSZRQ", DTXMXSZRQ, RW, 0x10, 0xfff, "8.2.3.9.1"), one("MTQC", MTQC, RW, 0, 0xf, "8.2.3.9.15"),
		one("RTTDCS", RTTDCS, RW, 0, all, "8.2.3.10.2"), one("RTTDQSEL", RTTDQSEL, RW, 0, 0x7f, "8.2.3.10.5"), one("RTTDT1C", RTTDT1C, RW, 0, all, "8.2.3.10.6"),
		one("RTTBCNRC", RTTBCNRC, RW, 0, all, "8.2.3.10.8"), one("RTTPCS", RTTPCS, RW, 0, all, "8.2.3.10.3"), one("RTTUP2TC", RTTUP2TC, RW, 0, all, "8.2.3.10.9"),
		one("SECTXCTRL", SECTXCTRL, RW, 0, 7, "8.2.3.12.1"), one("SECTXSTAT", SECTXSTAT, RO, 1, 0, "8.2.3.12.2"), one("SECTXMINIFG", SECTXMIN, RW, 0, all, "8.2.3.12.4"),
		array("TXPBSIZE", TXPBSIZE(0), 4, 8, RW, "8.2.3.9.13"), array("TXPBTHRESH", TXPBTHRESH(0), 4, 8, RW, "8.2.3.9.16"),
		txQueues("TDBAL", 0x00, Queue, 0, 0xffffff80, "8.2.3.9.5"), txQueues("TDBAH", 0x04, Queue, 0, all, "8.2.3.9.6"), txQueues("TDLEN", 0x08, Queue, 0, 0xfff80, "8.2.3.9.7"),
		txQueues("DCA_TXCTRL", 0x0C, RW, DCA_TXCTRL_WRO, all, "8.2.3.11.2"), txQueues("TDH", 0x10, Queue, 0, 0xffff, "8.2.3.9.8"), txQueues("TDT", 0x18, RW, 0, 0xffff, "8.2.3.9.9"),
		txQueues("TXDCTL", 0x28, RW, 0, all, "8.2.3.9.10"), txQueues("TDWBAL", 0x38, RW, 0, all, "8.2.3.9.11"), txQueues("TDWBAH", 0x3C, RW, 0, all, "8.2.3.9.12"),
		one("HLREG0", HLREG0, RW, HLREG0_TXCRCEN|HLREG0_RXCRCSTR|HLREG0_TXPADEN|1<<11, all, "8.2.3.22.8"), one("MSCA", MSCA, Self, 0, all, "8.2.3.22.11"),
		one("MSRWD", MSRWD, RW, 0xffff, 0, "8.2.3.22.12"), one("MAXFRS", MAXFRS, RW, 0x5EE0000, 0xffff0000, "8.2.3.22.13"), one("PCSS1", PCSS1, RO, 0, 0, "8.2.3.22.14"),
		one("MFLCN", MFLCN, RW, 0, all, "8.2.3.22.34"), one("AUTOC", AUTOC, Self, AUTOC_LMS_10G, all, "8.2.3.22.19"), one("LINKS", LINKS, RO, 0, 0, "8.2.3.22.20"),
		one("AUTOC2", AUTOC2, RW, AUTOC2_10G_SFI, all, "8.2.3.22.22"), one("ANLP1", ANLP1, RO, 0x00010000, 0, "8.2.3.22.23"), one("LINKS2", LINKS2, RO, 0, 0, "8.2.3.22.21"),
		one("CORECTL", CORECTL, RW, 0, all, "8.2.3.22.35"),
		one("FDIRCTRL", FDIRCTRL, Self, 0, all, "8.2.3.25.1"), one("FDIRCMD", FDIRCMD, Self, 0, all, "8.2.3.25.10"), array("FDIR", FDIRCTRL+4, 4, 20, RW, "8.2.3.25"),
		one("SSVPC", SSVPC, RC, 0, 0, "8.2.3.23"),
	}
	t = append(t, queues("RDBAL", 0x00, Queue, 0, 0xffffff80, "8.2.3.8.1")...)
	t = append(t, queues("RDBAH", 0x04, Queue, 0, all, "8.2.3.8.2")...)
	t = append(t, queues("RDLEN", 0x08, Queue, 0, 0xfff80, "8.2.3.8.3")...)
	t = append(t, queues("DCA_RXCTRL", 0x0C, RW, DCA_RXCTRL_RO_WR, all, "8.2.3.11.1")...)
	t = append(t, queues("RDH", 0x10, Queue, 0, 0xffff, "8.2.3.8.4")...)
	t = append(t, queues("SRRCTL", 0x14, RW, 0x402, all, "8.2.3.8.7")...)
	t = append(t, queues("RDT", 0x18, RW, 0, 0xffff, "8.2.3.8.5")...)
	t = append(t, queues("RXDCTL", 0x28, RW, 0, all, "8.2.3.8.6")...)
	t = append(t, queues("RSCCTL", 0x2C, RW, 0, all, "8.2.3.8.13")...)
	t = append(t, alias("SRRCTL", 0x2100, 4, 16, SRRCTL(0), 0x40, "8.2.3.8.7"), alias("DCA_RXCTRL", 0x2200, 4, 16, DCA_RXCTRL(0), 0x40, "8.2.3.11.1"))
	return append(t, statistics()...)
})

// statistics are the counters; all are cleared by reading (8.2.3.23).
func statistics() []Register {
	counter := func(name string, offset, stride uint32, count int) Register {
		return Register{Name: name, Offset: offset, Stride: stride, Count: count, Mode: RC, Section: "8.2.3.23"}
	}
	t := []Register{
		counter("RXMPC", RXMPC(0), 4, 8), counter("QPRC", QPRC(0), 0x40, 16), counter("QBRC_L", QBRC_L(0), 0x40, 16), counter("QBRC_H", QBRC_H(0), 0x40, 16),
		counter("QPRDC", QPRDC(0), 0x40, 16), counter("QPTC", QPTC(0), 4, 16), counter("QBTC_L", QBTC_L(0), 8, 16), counter("QBTC_H", QBTC_H(0), 8, 16),
		counter("LXONTXC", 0x3F60, 4, 1), counter("LXOFFTXC", 0x3F68, 4, 1), counter("LXONRXCNT", 0x41A4, 4, 1), counter("LXOFFRXCNT", 0x41A8, 4, 1),
		counter("PXONTXC", 0x3F00, 4, 8), counter("PXOFFTXC", 0x3F20, 4, 8), counter("PXONRXCNT", 0x4140, 4, 8), counter("PXOFFRXCNT", 0x4160, 4, 8),
		counter("FCCRC", 0x5118, 4, 1), counter("FCOERPDC", 0x241C, 4, 1), counter("FCLAST", 0x2424, 4, 1), counter("FCOEPRC", 0x2428, 4, 1),
		counter("FCOEDWRC", 0x242C, 4, 1), counter("FCOEPTC", 0x8784, 4, 1), counter("FCOEDWTC", 0x8788, 4, 1),
	}
	for _, c := range []struct {
		name   string
		offset uint32
	}{
		{"CRCERRS", CRCERRS}, {"ILLERRC", ILLERRC}, {"ERRBC", ERRBC}, {"MSPDC", 0x4010}, {"MLFC", MLFC}, {"MRFC", MRFC}, {"RLEC", RLEC}, {"PRC64", PRC64}, {"PRC127", PRC127}, {"PRC255", PRC255},
		{"PRC511", PRC511}, {"PRC1023", PRC1023}, {"PRC1522", PRC1522}, {"GPRC", GPRC}, {"BPRC", BPRC}, {"MPRC", MPRC}, {"GPTC", GPTC}, {"GORCL", GORCL},
		{"GORCH", GORCH}, {"GOTCL", GOTCL}, {"GOTCH", GOTCH}, {"RUC", RUC}, {"RFC", RFC}, {"ROC", ROC}, {"RJC", RJC}, {"MNGPRC", 0x40B4}, {"MNGPDC", 0x40B8},
		{"TORL", TORL}, {"TORH", TORH}, {"TPR", TPR}, {"TPT", TPT}, {"PTC64", PTC64}, {"PTC127", PTC127}, {"PTC255", PTC255}, {"PTC511", PTC511},
		{"PTC1023", PTC1023}, {"PTC1522", PTC1522}, {"MPTC", MPTC}, {"BPTC", BPTC}, {"XEC", XEC},
	} {
		t = append(t, counter(c.name, c.offset, 4, 1))
	}
	return t
}

// index finds registers by offset.
type place struct {
	row   *Register
	index int
}

var places = sync.OnceValue(func() map[uint32]place {
	m := map[uint32]place{}
	t := slices.Clone(Table())
	for i := range t {
		r := &t[i]
		for n := range r.Count {
			at := r.Offset + uint32(n)*r.Stride
			if _, known := m[at]; !known { // rows for single registers come before those for groups
				m[at] = place{r, n}
			}
		}
	}
	return m
})

// Lookup gives the row of an offset and the place in it, counted from 0; nil for an offset that the table does not have.
func Lookup(offset uint32) (r *Register, n int) {
	p := places()[offset]
	return p.row, p.index
}

// Canonical gives the offset that an alias stands for; other offsets as they are.
func Canonical(offset uint32) uint32 {
	if r, n := Lookup(offset); r != nil && r.Alias != 0 || r != nil && r.Name == "CTRL" {
		return r.Alias + uint32(n)*r.AliasStride
	}
	return offset
}

// Name is how people call the register at an offset: "RXDCTL[3]", "EICR", or "0x01234" for one that the table does not have.
func Name(offset uint32) string {
	r, n := Lookup(offset)
	switch {
	case r == nil:
		return fmt.Sprintf("%#05x", offset)
	case r.Count == 1 && r.First == 0:
		return r.Name
	}
	return fmt.Sprintf("%s[%d]", r.Name, r.First+n)
}
