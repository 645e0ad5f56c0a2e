package regs

// Bits, named register_field as in the datasheet.
const (
	CTRL_GIO_DIS = 1 << 2 // PCIe master disable
	CTRL_LRST    = 1 << 3
	CTRL_RST     = 1 << 26

	STATUS_LINK_UP = 1 << 7
	STATUS_GIO     = 1 << 19 // PCIe master enable status

	CTRL_EXT_NS_DIS   = 1 << 16
	CTRL_EXT_DRV_LOAD = 1 << 28

	ESDP_SDP3 = 1 << 3 // laser off, where it is wired so

	I2CCTL_CLK_IN   = 1 << 0
	I2CCTL_CLK_OUT  = 1 << 1
	I2CCTL_DATA_IN  = 1 << 2
	I2CCTL_DATA_OUT = 1 << 3

	EEC_SK         = 1 << 0
	EEC_CS         = 1 << 1
	EEC_DI         = 1 << 2
	EEC_DO         = 1 << 3
	EEC_REQ        = 1 << 6
	EEC_GNT        = 1 << 7
	EEC_PRES       = 1 << 8
	EEC_ARD        = 1 << 9 // auto-read done
	EEC_ADDR_SIZE  = 1 << 10
	EEC_SIZE_SHIFT = 11

	EERD_START = 1 << 0
	EERD_DONE  = 1 << 1

	SWSM_SMBI    = 1 << 0
	SWSM_SWESMBI = 1 << 1

	EICR_LSC    = 1 << 20 // link status change
	EICR_OTHER  = 1 << 31
	GPIE_MSIX   = 1 << 4
	GPIE_EIAME  = 1 << 30
	IVAR_VALID  = 1 << 7
	IVAR_VECTOR = 0x3f

	FCTRL_MPE = 1 << 8
	FCTRL_UPE = 1 << 9
	FCTRL_BAM = 1 << 10

	VLNCTRL_VFE = 1 << 30

	MCSTCTRL_MO  = 3 // which address bits the hash has
	MCSTCTRL_MFE = 1 << 2

	RXCTRL_RXEN = 1 << 0

	RDRXCTL_CRCSTRIP   = 1 << 1
	RDRXCTL_DMAIDONE   = 1 << 3
	RDRXCTL_RSCFRSTSZ  = 0x1f << 17
	RDRXCTL_RSCACKC    = 1 << 25
	RDRXCTL_FCOE_WRFIX = 1 << 26

	SECRXCTRL_RX_DIS = 1 << 1
	SECRXSTAT_RDY    = 1 << 0

	RXDCTL_ENABLE = 1 << 25
	RXDCTL_VME    = 1 << 30

	SRRCTL_BSIZEPKT   = 0x1f // KiB
	SRRCTL_DESCTYPE   = 7 << 25
	SRRCTL_ADV_ONEBUF = 1 << 25
	SRRCTL_DROP_EN    = 1 << 28
	DCA_RXCTRL_RO_WR  = 1 << 12 // must be written 0
	DCA_TXCTRL_WRO    = 1 << 11

	RAH_AV = 1 << 31

	MRQC_MRQE      = 0xf
	MRQC_RSS       = 1
	MRQC_VMDQ64    = 0x8
	MRQC_VMDQ32RSS = 0xA
	MRQC_VMDQ64RSS = 0xB
	MRQC_VMDQ16DCB = 0xC
	MRQC_VMDQ32DCB = 0xD
	MRQC_RSS_TCP4  = 1 << 16
	MRQC_RSS_IP4   = 1 << 17
	MRQC_RSS_IP6   = 1 << 20
	MRQC_RSS_TCP6  = 1 << 21
	MRQC_RSS_UDP4  = 1 << 22
	MRQC_RSS_UDP6  = 1 << 23

	MTQC_RT_ENA = 1 << 0
	MTQC_VT_ENA = 1 << 1
	MTQC_64Q    = 1 << 2 // NUM_TC_OR_Q: 64 pools of 2 queues
	MTQC_4TC    = 2 << 2
	MTQC_8TC    = 3 << 2
	MTQC_VMDQ64 = 0x6
	MTQC_VMDQ32 = 0xA
	MTQC_DCB32  = 0xB
	MTQC_DCB16  = 0xF

	VT_CTL_VT_EN        = 1 << 0
	VT_CTL_DEFPL_SHIFT  = 7
	VT_CTL_DEFPL        = 0x3f << VT_CTL_DEFPL_SHIFT
	VT_CTL_DIS_DEFPL    = 1 << 29
	VT_CTL_REPLEN       = 1 << 30
	PFDTXGSWC_LBE       = 1 << 0
	VMOLR_AUPE          = 1 << 24
	VMOLR_ROMPE         = 1 << 25
	VMOLR_ROPE          = 1 << 26
	VMOLR_BAM           = 1 << 27
	VMOLR_MPE           = 1 << 28
	VLVF_VIEN           = 1 << 31
	VMVIR_VLANA_DEFAULT = 1 << 30 // always insert the default tag
	VMVIR_VLANA_NEVER   = 2 << 30
	VMVIR_VLANA         = 3 << 30
	SPOOF_VLAN_SHIFT    = 8 // PFVFSPOOF: MAC in bits 7:0, VLAN in bits 15:8

	MRCTL_VPME     = 1 << 0 // mirror pools
	MRCTL_UPME     = 1 << 1 // mirror what came from the wire
	MRCTL_DPME     = 1 << 2 // mirror what goes to the wire
	MRCTL_VLME     = 1 << 3 // mirror VLANs
	MRCTL_MP_SHIFT = 8      // pool that gets the copy

	HLREG0_TXCRCEN  = 1 << 0
	HLREG0_RXCRCSTR = 1 << 1
	HLREG0_JUMBOEN  = 1 << 2
	HLREG0_TXPADEN  = 1 << 10
	HLREG0_LPBK     = 1 << 15

	RTTDCS_ARBDIS  = 1 << 6
	DMATXCTL_TE    = 1 << 0
	DMATXCTL_GDV   = 1 << 3
	TXDCTL_ENABLE  = 1 << 25
	TXDCTL_SWFLSH  = 1 << 26
	TDWBAL_HEAD_WB = 1 << 0

	AUTOC_RESTART     = 1 << 12
	AUTOC_FLU         = 1 << 0
	AUTOC_LMS_SHIFT   = 13
	AUTOC_LMS         = 7 << AUTOC_LMS_SHIFT
	AUTOC_LMS_10G     = 3 << AUTOC_LMS_SHIFT // 10G serial link
	AUTOC2_10G_SHIFT  = 16
	AUTOC2_10G        = 3 << AUTOC2_10G_SHIFT
	AUTOC2_10G_SFI    = 2 << AUTOC2_10G_SHIFT
	LINKS_KX_AN_COMP  = 1 << 31
	LINKS_UP          = 1 << 30
	LINKS_SPEED       = 3 << 28
	LINKS_SPEED_10G   = 3 << 28
	MSCA_MDI_COMMAND  = 1 << 30
	FDIRCTRL_INITDONE = 1 << 3
)

// Advanced descriptors, 16 bytes (7.1.6, 7.2.3.2).
const (
	DescSize = 16

	// Receive, write-back: the second quad word.
	RXD_STAT_DD    = 1 << 0
	RXD_STAT_EOP   = 1 << 1
	RXD_STAT_VP    = 1 << 3
	RXD_STAT_L4CS  = 1 << 5
	RXD_STAT_IPCS  = 1 << 6
	RXD_STAT_LB    = 1 << 18
	RXD_ERR_RXE    = 1 << 29
	RXD_ERR_TCPE   = 1 << 30
	RXD_ERR_IPE    = 1 << 31
	RXD_LEN_SHIFT  = 32
	RXD_VLAN_SHIFT = 48

	// Packet types, from bit 4 of the first double word.
	RXD_TYPE_IPV4 = 1 << 4
	RXD_TYPE_IPV6 = 1 << 6
	RXD_TYPE_TCP  = 1 << 8
	RXD_TYPE_UDP  = 1 << 9

	// Transmit: cmd_type_len.
	TXD_LEN       = 0xffff
	TXD_DTYP      = 0xf << 20
	TXD_DTYP_CTXT = 2 << 20
	TXD_DTYP_DATA = 3 << 20
	TXD_EOP       = 1 << 24
	TXD_IFCS      = 1 << 25
	TXD_RS        = 1 << 27
	TXD_DEXT      = 1 << 29
	TXD_VLE       = 1 << 30
	TXD_TSE       = 1 << 31
	// Transmit: olinfo_status.
	TXD_DD           = 1 << 0
	TXD_IDX_SHIFT    = 4
	TXD_CC           = 1 << 7
	TXD_IXSM         = 1 << 8
	TXD_TXSM         = 1 << 9
	TXD_PAYLEN_SHIFT = 14
	// Transmit context: TUCMD in the third double word.
	TUCMD_IPV4     = 1 << 10
	TUCMD_L4T      = 3 << 11
	TUCMD_L4T_UDP  = 0 << 11
	TUCMD_L4T_TCP  = 1 << 11
	TUCMD_L4T_SCTP = 2 << 11
)
