package regs

// Device and vendor.
const (
	VendorIntel = 0x8086
	Device82599 = 0x10fb // SFI/SFP+
	BARSize     = 0x80000
	MSIXVectors = 64
	RXQueues    = 128
	TXQueues    = 128
	Pools       = 64
	RARs        = 128
	VLVFs       = 64
)

// General control (8.2.3.1).
const (
	CTRL     = 0x00000
	STATUS   = 0x00008
	CTRL_EXT = 0x00018
	ESDP     = 0x00020
	I2CCTL   = 0x00028
	FRTIMER  = 0x00048
	LEDCTL   = 0x00200
)

// EEPROM and flash, semaphores, PCIe (8.2.3.2 to 8.2.3.4).
const (
	EEC       = 0x10010
	EERD      = 0x10014
	FLA       = 0x1001C
	SWSM      = 0x10140
	FWSM      = 0x10148
	FACTPS    = 0x10150
	SW_FW_SYN = 0x10160 // SW_FW_SYNC, which Linux calls GSSR
	GCR       = 0x11000
	GCR_EXT   = 0x11050
)

// Interrupts (8.2.3.5).
const (
	EICR      = 0x00800
	EICS      = 0x00808
	EIAC      = 0x00810
	EIMS      = 0x00880
	EIMC      = 0x00888
	EIAM      = 0x00890
	EITRSEL   = 0x00894
	GPIE      = 0x00898
	IVAR_MISC = 0x00A00
)

// EICS_EX, EIMS_EX, EIMC_EX and EIAM_EX have a bit for each MSI-X vector, 32 in a register.
func EICS_EX(n int) uint32 { return 0x00A90 + 4*uint32(n) }
func EIMS_EX(n int) uint32 { return 0x00AA0 + 4*uint32(n) }
func EIMC_EX(n int) uint32 { return 0x00AB0 + 4*uint32(n) }
func EIAM_EX(n int) uint32 { return 0x00AD0 + 4*uint32(n) }

// IVAR has the vectors of queues 2n and 2n+1, a byte each for receive and transmit.
func IVAR(n int) uint32 { return 0x00900 + 4*uint32(n) }

// EITR throttles vector n.
func EITR(n int) uint32 {
	if n < 24 {
		return 0x00820 + 4*uint32(n)
	}
	return 0x12300 + 4*uint32(n-24)
}

// Flow control (8.2.3.3).
const (
	FCRTV = 0x032A0
	FCCFG = 0x03D00
)

func FCTTV(n int) uint32 { return 0x03200 + 4*uint32(n) }
func FCRTL(n int) uint32 { return 0x03220 + 4*uint32(n) }
func FCRTH(n int) uint32 { return 0x03260 + 4*uint32(n) }

// Receive (8.2.3.7, 8.2.3.8).
const (
	FCTRL     = 0x05080
	VLNCTRL   = 0x05088
	MCSTCTRL  = 0x05090
	RXCSUM    = 0x05000
	RFCTL     = 0x05008
	MRQC      = 0x0EC80
	RDRXCTL   = 0x02F00
	QDE       = 0x02F04
	RXCTRL    = 0x03000
	RTRUP2TC  = 0x03020
	RTRPCS    = 0x02430
	SECRXCTRL = 0x08D00
	SECRXSTAT = 0x08D04
)

// A receive queue's registers lie 0x40 apart, in two groups of 64.
func rxQueue(n int) uint32 {
	if n < 64 {
		return 0x01000 + 0x40*uint32(n)
	}
	return 0x0D000 + 0x40*uint32(n-64)
}

func RDBAL(n int) uint32      { return rxQueue(n) + 0x00 }
func RDBAH(n int) uint32      { return rxQueue(n) + 0x04 }
func RDLEN(n int) uint32      { return rxQueue(n) + 0x08 }
func DCA_RXCTRL(n int) uint32 { return rxQueue(n) + 0x0C }
func RDH(n int) uint32        { return rxQueue(n) + 0x10 }
func SRRCTL(n int) uint32     { return rxQueue(n) + 0x14 }
func RDT(n int) uint32        { return rxQueue(n) + 0x18 }
func RXDCTL(n int) uint32     { return rxQueue(n) + 0x28 }
func RSCCTL(n int) uint32     { return rxQueue(n) + 0x2C }

func MTA(n int) uint32      { return 0x05200 + 4*uint32(n) }
func PFUTA(n int) uint32    { return 0x0F400 + 4*uint32(n) }
func RAL(n int) uint32      { return 0x0A200 + 8*uint32(n) }
func RAH(n int) uint32      { return 0x0A204 + 8*uint32(n) }
func MPSAR_LO(n int) uint32 { return 0x0A600 + 8*uint32(n) }
func MPSAR_HI(n int) uint32 { return 0x0A604 + 8*uint32(n) }
func VFTA(n int) uint32     { return 0x0A000 + 4*uint32(n) }
func PSRTYPE(n int) uint32  { return 0x0EA00 + 4*uint32(n) }
func RETA(n int) uint32     { return 0x0EB00 + 4*uint32(n) }
func RSSRK(n int) uint32    { return 0x0EB80 + 4*uint32(n) }
func FTQF(n int) uint32     { return 0x0E600 + 4*uint32(n) }
func RXPBSIZE(n int) uint32 { return 0x03C00 + 4*uint32(n) }
func RQSMR(n int) uint32    { return 0x02300 + 4*uint32(n) }
func TQSM(n int) uint32     { return 0x08600 + 4*uint32(n) }

// Virtualization (8.2.3.27).
const (
	VT_CTL    = 0x051B0 // PFVTCTL
	PFDTXGSWC = 0x08220
	SSVPC     = 0x08780
)

func VFRE(n int) uint32      { return 0x051E0 + 4*uint32(n) }
func VFTE(n int) uint32      { return 0x08110 + 4*uint32(n) }
func VMTXSW(n int) uint32    { return 0x05180 + 4*uint32(n) }
func VMOLR(n int) uint32     { return 0x0F000 + 4*uint32(n) }
func VLVF(n int) uint32      { return 0x0F100 + 4*uint32(n) }
func VLVFB(n int) uint32     { return 0x0F200 + 4*uint32(n) } // two for each VLVF
func VMVIR(n int) uint32     { return 0x08000 + 4*uint32(n) }
func PFVFSPOOF(n int) uint32 { return 0x08200 + 4*uint32(n) } // eight pools each
func MRCTL(n int) uint32     { return 0x0F600 + 4*uint32(n) }
func VMRVLAN(n int) uint32   { return 0x0F610 + 4*uint32(n) }
func VMRVM(n int) uint32     { return 0x0F630 + 4*uint32(n) }

// Transmit (8.2.3.9).
const (
	DMATXCTL  = 0x04A80
	DTXMXSZRQ = 0x08100
	MTQC      = 0x08120
	RTTDCS    = 0x04900
	RTTDQSEL  = 0x04904
	RTTDT1C   = 0x04908
	RTTBCNRC  = 0x04984
	RTTPCS    = 0x0CD00
	RTTUP2TC  = 0x0C800
	SECTXCTRL = 0x08800
	SECTXSTAT = 0x08804
	SECTXMIN  = 0x08810 // SECTXMINIFG
)

func txQueue(n int) uint32    { return 0x06000 + 0x40*uint32(n) }
func TDBAL(n int) uint32      { return txQueue(n) + 0x00 }
func TDBAH(n int) uint32      { return txQueue(n) + 0x04 }
func TDLEN(n int) uint32      { return txQueue(n) + 0x08 }
func DCA_TXCTRL(n int) uint32 { return txQueue(n) + 0x0C }
func TDH(n int) uint32        { return txQueue(n) + 0x10 }
func TDT(n int) uint32        { return txQueue(n) + 0x18 }
func TXDCTL(n int) uint32     { return txQueue(n) + 0x28 }
func TDWBAL(n int) uint32     { return txQueue(n) + 0x38 }
func TDWBAH(n int) uint32     { return txQueue(n) + 0x3C }
func TXPBSIZE(n int) uint32   { return 0x0CC00 + 4*uint32(n) }
func TXPBTHRESH(n int) uint32 { return 0x04950 + 4*uint32(n) }

// MAC and link (8.2.3.22).
const (
	HLREG0  = 0x04240
	MSCA    = 0x0425C
	MSRWD   = 0x04260
	MAXFRS  = 0x04268
	PCSS1   = 0x04288
	MFLCN   = 0x04294
	AUTOC   = 0x042A0
	LINKS   = 0x042A4
	AUTOC2  = 0x042A8
	ANLP1   = 0x042B0
	LINKS2  = 0x04324
	CORECTL = 0x014F00
)

// Flow director (8.2.3.25).
const (
	FDIRCTRL = 0x0EE00
	FDIRHASH = 0x0EE28
	FDIRCMD  = 0x0EE2C
)

// Statistics (8.2.3.23), all cleared by reading.
const (
	CRCERRS = 0x04000
	ILLERRC = 0x04004
	ERRBC   = 0x04008
	MLFC    = 0x04034
	MRFC    = 0x04038
	RLEC    = 0x04040
	PRC64   = 0x0405C
	PRC127  = 0x04060
	PRC255  = 0x04064
	PRC511  = 0x04068
	PRC1023 = 0x0406C
	PRC1522 = 0x04070
	GPRC    = 0x04074
	BPRC    = 0x04078
	MPRC    = 0x0407C
	GPTC    = 0x04080
	GORCL   = 0x04088
	GORCH   = 0x0408C
	GOTCL   = 0x04090
	GOTCH   = 0x04094
	RUC     = 0x040A4
	RFC     = 0x040A8
	ROC     = 0x040AC
	RJC     = 0x040B0
	TORL    = 0x040C0
	TORH    = 0x040C4
	TPR     = 0x040D0
	TPT     = 0x040D4
	PTC64   = 0x040D8
	PTC127  = 0x040DC
	PTC255  = 0x040E0
	PTC511  = 0x040E4
	PTC1023 = 0x040E8
	PTC1522 = 0x040EC
	MPTC    = 0x040F0
	BPTC    = 0x040F4
	XEC     = 0x04120
)

func RXMPC(n int) uint32  { return 0x03FA0 + 4*uint32(n) }
func QPRC(n int) uint32   { return 0x01030 + 0x40*uint32(n) }
func QBRC_L(n int) uint32 { return 0x01034 + 0x40*uint32(n) }
func QBRC_H(n int) uint32 { return 0x01038 + 0x40*uint32(n) }
func QPRDC(n int) uint32  { return 0x01430 + 0x40*uint32(n) }
func QPTC(n int) uint32   { return 0x08680 + 4*uint32(n) }
func QBTC_L(n int) uint32 { return 0x08700 + 8*uint32(n) }
func QBTC_H(n int) uint32 { return 0x08704 + 8*uint32(n) }
