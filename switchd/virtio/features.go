package virtio

import (
	"fmt"

	"vhostkit/switchd/control/names"
)

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
	VIRTIO_NET_F_CSUM: names.FeatureCSUM, VIRTIO_NET_F_GUEST_CSUM: names.FeatureGuestCSUM, VIRTIO_NET_F_MTU: names.FeatureMTU, VIRTIO_NET_F_MAC: names.FeatureMAC,
	VIRTIO_NET_F_GSO: names.FeatureGSO, VIRTIO_NET_F_GUEST_TSO4: names.FeatureGuestTSO4, VIRTIO_NET_F_GUEST_TSO6: names.FeatureGuestTSO6,
	VIRTIO_NET_F_GUEST_ECN: names.FeatureGuestECN, VIRTIO_NET_F_GUEST_UFO: names.FeatureGuestUFO, VIRTIO_NET_F_HOST_TSO4: names.FeatureHostTSO4,
	VIRTIO_NET_F_HOST_TSO6: names.FeatureHostTSO6, VIRTIO_NET_F_HOST_ECN: names.FeatureHostECN, VIRTIO_NET_F_HOST_UFO: names.FeatureHostUFO,
	VIRTIO_NET_F_MRG_RXBUF: names.FeatureMrgRxbuf, VIRTIO_NET_F_STATUS: names.FeatureStatus, VIRTIO_NET_F_CTRL_VQ: names.FeatureCtrlVQ,
	VIRTIO_NET_F_CTRL_RX: names.FeatureCtrlRX, VIRTIO_NET_F_CTRL_VLAN: names.FeatureCtrlVLAN, VIRTIO_NET_F_GUEST_ANNOUNCE: names.FeatureGuestAnnounce,
	VIRTIO_NET_F_MQ: names.FeatureMQ, VIRTIO_NET_F_CTRL_MAC_ADDR: names.FeatureCtrlMACAddr, VIRTIO_F_NOTIFY_ON_EMPTY: names.FeatureNotifyOnEmpty,
	VHOST_F_LOG_ALL: names.FeatureLogAll, VIRTIO_F_ANY_LAYOUT: names.FeatureAnyLayout, VIRTIO_F_INDIRECT_DESC: names.FeatureIndirectDesc,
	VIRTIO_F_EVENT_IDX: names.FeatureEventIdx, VHOST_USER_F_PROTOCOL: names.FeatureProtocolFeatures, VIRTIO_F_VERSION_1: names.FeatureVersion1,
	VIRTIO_F_ACCESS_PLATFORM: names.FeatureAccessPlatform, VIRTIO_F_RING_PACKED: names.FeatureRingPacked, VIRTIO_F_IN_ORDER: names.FeatureInOrder,
	VIRTIO_F_ORDER_PLATFORM: names.FeatureOrderPlatform, VIRTIO_F_NOTIFICATION_DATA: names.FeatureNotificationData, VIRTIO_F_RING_RESET: names.FeatureRingReset,
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
	var list []string
	for bit := 0; bit < 64; bit++ {
		if !f.Has(bit) {
			continue
		}
		name, ok := featureNames[bit]
		if !ok {
			name = fmt.Sprintf("bit_%d", bit)
		}
		list = append(list, name)
	}
	return list
}

// HeaderSize is the length of the virtio-net header in bytes: 12 with num_buffers, 10 on legacy devices without mergeable receive buffers
// (virtio 1.2, 5.1.6.1).
func (f Features) HeaderSize() int {
	if f.Has(VIRTIO_F_VERSION_1) || f.Has(VIRTIO_NET_F_MRG_RXBUF) {
		return 12
	}
	return 10
}
