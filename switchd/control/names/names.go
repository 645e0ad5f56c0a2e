// Package names has the words of the control interface that programs compare: switchd sends them and its clients look for them, so both take
// them from here. They are part of /v1: words are added, never changed.
package names

// Features of a virtio network device, as Port.Features lists them.
const (
	FeatureCSUM             = "csum"
	FeatureGuestCSUM        = "guest_csum"
	FeatureMTU              = "mtu"
	FeatureMAC              = "mac"
	FeatureGSO              = "gso"
	FeatureGuestTSO4        = "guest_tso4"
	FeatureGuestTSO6        = "guest_tso6"
	FeatureGuestECN         = "guest_ecn"
	FeatureGuestUFO         = "guest_ufo"
	FeatureHostTSO4         = "host_tso4"
	FeatureHostTSO6         = "host_tso6"
	FeatureHostECN          = "host_ecn"
	FeatureHostUFO          = "host_ufo"
	FeatureMrgRxbuf         = "mrg_rxbuf"
	FeatureStatus           = "status"
	FeatureCtrlVQ           = "ctrl_vq"
	FeatureCtrlRX           = "ctrl_rx"
	FeatureCtrlVLAN         = "ctrl_vlan"
	FeatureGuestAnnounce    = "guest_announce"
	FeatureMQ               = "mq"
	FeatureCtrlMACAddr      = "ctrl_mac_addr"
	FeatureNotifyOnEmpty    = "notify_on_empty"
	FeatureLogAll           = "log_all"
	FeatureAnyLayout        = "any_layout"
	FeatureIndirectDesc     = "indirect_desc"
	FeatureEventIdx         = "event_idx"
	FeatureProtocolFeatures = "protocol_features"
	FeatureVersion1         = "version_1"
	FeatureAccessPlatform   = "access_platform"
	FeatureRingPacked       = "ring_packed"
	FeatureInOrder          = "in_order"
	FeatureOrderPlatform    = "order_platform"
	FeatureNotificationData = "notification_data"
	FeatureRingReset        = "ring_reset"
)

// Protocol features of vhost-user, as Port.ProtocolFeatures lists them.
const (
	ProtocolMQ                = "mq"
	ProtocolRarp              = "rarp"
	ProtocolReplyAck          = "reply_ack"
	ProtocolMTU               = "mtu"
	ProtocolBackendReq        = "backend_req"
	ProtocolResetDevice       = "reset_device"
	ProtocolConfigureMemSlots = "configure_mem_slots"
	ProtocolStatus            = "status"
	ProtocolLogShmfd          = "log_shmfd" // for migration; this version does not offer it
)

// Layouts of rings, in Port.Ring.
const (
	RingSplit  = "split"
	RingPacked = "packed"
)

// Drivers of the uplink, in UplinkStats.Driver.
const (
	UplinkNone  = "none" // the switch has no uplink
	UplinkTap   = "tap"
	UplinkIXGBE = "ixgbe"
)

// WaitingNotShared begins a Port.Reason: a ring lies in memory that the front-end does not share.
const WaitingNotShared = "memory not shared"
