package vhost

import (
	"vhostkit/switchd/foreign"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// Options decide which features a device offers, and what it may take.
type Options struct {
	Mergeable     bool // MRG_RXBUF
	TxCsum        bool // checksum offload, both directions
	TSO           bool // TCP segmentation offload, both directions; implies TxCsum
	Promiscuous   bool // CTRL_RX
	MaxQueuePairs int
	MTU           int // bytes

	// AnyFile lets a front-end share memory in files whose pages may keep the switch waiting (guestmem.Mapper).
	AnyFile bool
	// Files count and close what the front-end brings; nil: nothing is counted. The transport sets them for each device.
	Files *foreign.Files
	// Populator maps guests' memory behind their rings' start; it is the whole switch's. nil: only rings and their buffers are populated.
	Populator *guestmem.Populator
}

func (o Options) mapper() guestmem.Mapper { return guestmem.Mapper{Files: o.Files, AnyFile: o.AnyFile} }

// Features is the set that GET_FEATURES reports.
func (o Options) Features() virtio.Features {
	f := virtio.Bits(
		virtio.VIRTIO_F_VERSION_1, virtio.VIRTIO_F_ANY_LAYOUT, virtio.VIRTIO_F_INDIRECT_DESC, virtio.VIRTIO_F_EVENT_IDX,
		virtio.VIRTIO_F_RING_PACKED, virtio.VIRTIO_F_IN_ORDER, virtio.VHOST_USER_F_PROTOCOL, virtio.VIRTIO_NET_F_GUEST_ANNOUNCE,
		virtio.VIRTIO_NET_F_CTRL_VQ, virtio.VIRTIO_NET_F_STATUS, virtio.VIRTIO_NET_F_MTU,
	)
	if o.MaxQueuePairs > 1 {
		f |= virtio.Bits(virtio.VIRTIO_NET_F_MQ)
	}
	if o.Mergeable {
		f |= virtio.Bits(virtio.VIRTIO_NET_F_MRG_RXBUF)
	}
	if o.TxCsum || o.TSO {
		f |= virtio.Bits(virtio.VIRTIO_NET_F_CSUM, virtio.VIRTIO_NET_F_GUEST_CSUM)
	}
	if o.TSO {
		f |= virtio.Bits(virtio.VIRTIO_NET_F_HOST_TSO4, virtio.VIRTIO_NET_F_HOST_TSO6, virtio.VIRTIO_NET_F_GUEST_TSO4,
			virtio.VIRTIO_NET_F_GUEST_TSO6)
	}
	if o.Promiscuous {
		f |= virtio.Bits(virtio.VIRTIO_NET_F_CTRL_RX)
	}
	return f
}
