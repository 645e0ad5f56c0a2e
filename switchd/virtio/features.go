package virtio

import "fmt"

// Feature bits of a virtio network device (virtio 1.2, 5.1.3 and 6).
const (
	VIRTIO_NET_F_CSUM           = 0
	VIRTIO_NET_F_GUEST_CSUM     = 1
	VIRTIO_NET_F_MTU            = 3
	VIRTIO_NET_F_MAC            = 5
	VIRTIO_NET_F_GSO            = 6 // legacy
	VIRTIO_NET_F_GUEST_TSO4     = 7
	VIRTIO_NET_F_GUEST_TSO6     = 8
	VIRTIO_NET_F_GUEST_ECN      = 9
	VIRTIO_NET_F_GUEST_UFO      = 10
	VIRTIO_NET_F_HOST_TSO4      = 11
	VIRTIO_NET_F_HOST_TSO6      = 12
	VIRTIO_NET_F_HOST_ECN       = 13
	VIRTIO_NET_F_HOST_UFO       = 14
	VIRTIO_NET_F_MRG_RXBUF      = 15
	VIRTIO_NET_F_STATUS         = 16
	VIRTIO_NET_F_CTRL_VQ        = 17
	VIRTIO_NET_F_CTRL_RX        = 18
	VIRTIO_NET_F_CTRL_VLAN      = 19
	VIRTIO_NET_F_GUEST_ANNOUNCE = 21
	VIRTIO_NET_F_MQ             = 22
	VIRTIO_NET_F_CTRL_MAC_ADDR  = 23
	VIRTIO_F_NOTIFY_ON_EMPTY    = 24 // legacy
	VHOST_F_LOG_ALL             = 26 // vhost: log writes to guest memory
	VIRTIO_F_ANY_LAYOUT         = 27 // legacy; always the case with VERSION_1
	VIRTIO_F_INDIRECT_DESC      = 28
	VIRTIO_F_EVENT_IDX          = 29
	VHOST_USER_F_PROTOCOL       = 30 // VHOST_USER_F_PROTOCOL_FEATURES
	VIRTIO_F_VERSION_1          = 32
	VIRTIO_F_ACCESS_PLATFORM    = 33
	VIRTIO_F_RING_PACKED        = 34
	VIRTIO_F_IN_ORDER           = 35
	VIRTIO_F_ORDER_PLATFORM     = 36
	VIRTIO_F_NOTIFICATION_DATA  = 38
	VIRTIO_F_RING_RESET         = 40
)

var featureNames = map[int]string{
	VIRTIO_NET_F_CSUM: "csum", VIRTIO_NET_F_GUEST_CSUM: "guest_csum", VIRTIO_NET_F_MTU: "mtu", VIRTIO_NET_F_MAC: "mac",
	VIRTIO_NET_F_GSO: "gso", VIRTIO_NET_F_GUEST_TSO4: "guest_tso4", VIRTIO_NET_F_GUEST_TSO6: "guest_tso6",
	VIRTIO_NET_F_GUEST_ECN: "guest_ecn", VIRTIO_NET_F_GUEST_UFO: "guest_ufo", VIRTIO_NET_F_HOST_TSO4: "host_tso4",
	VIRTIO_NET_F_HOST_TSO6: "host_tso6", VIRTIO_NET_F_HOST_ECN: "host_ecn", VIRTIO_NET_F_HOST_UFO: "host_ufo",
	VIRTIO_NET_F_MRG_RXBUF: "mrg_rxbuf", VIRTIO_NET_F_STATUS: "status", VIRTIO_NET_F_CTRL_VQ: "ctrl_vq",
	VIRTIO_NET_F_CTRL_RX: "ctrl_rx", VIRTIO_NET_F_CTRL_VLAN: "ctrl_vlan", VIRTIO_NET_F_GUEST_ANNOUNCE: "guest_announce",
	VIRTIO_NET_F_MQ: "mq", VIRTIO_NET_F_CTRL_MAC_ADDR: "ctrl_mac_addr", VIRTIO_F_NOTIFY_ON_EMPTY: "notify_on_empty",
	VHOST_F_LOG_ALL: "log_all", VIRTIO_F_ANY_LAYOUT: "any_layout", VIRTIO_F_INDIRECT_DESC: "indirect_desc",
	VIRTIO_F_EVENT_IDX: "event_idx", VHOST_USER_F_PROTOCOL: "protocol_features", VIRTIO_F_VERSION_1: "version_1",
	VIRTIO_F_ACCESS_PLATFORM: "access_platform", VIRTIO_F_RING_PACKED: "ring_packed", VIRTIO_F_IN_ORDER: "in_order",
	VIRTIO_F_ORDER_PLATFORM: "order_platform", VIRTIO_F_NOTIFICATION_DATA: "notification_data", VIRTIO_F_RING_RESET: "ring_reset",
}

// Features is a set of feature bits as GET_FEATURES and SET_FEATURES carry it.
type Features uint64

// Bits makes a set of the given bit numbers.
func Bits(bits ...int) Features {
	var f Features
	for _, b := range bits {
		f |= 1 << b
	}
	return f
}

// Has tells whether the bit with that number is set.
func (f Features) Has(bit int) bool { return f>>bit&1 != 0 }

// Names lists the set bits by the names of virtio 1.2, in lower case; "bit_N" where there is no name.
func (f Features) Names() []string {
	var names []string
	for bit := 0; bit < 64; bit++ {
		if !f.Has(bit) {
			continue
		}
		name, ok := featureNames[bit]
		if !ok {
			name = fmt.Sprintf("bit_%d", bit)
		}
		names = append(names, name)
	}
	return names
}

// HeaderSize is the length of the virtio-net header in bytes: 12 with num_buffers, 10 on legacy devices without mergeable receive buffers
// (virtio 1.2, 5.1.6.1).
func (f Features) HeaderSize() int {
	if f.Has(VIRTIO_F_VERSION_1) || f.Has(VIRTIO_NET_F_MRG_RXBUF) {
		return 12
	}
	return 10
}
