package forward

import (
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// scratch is a worker's own memory for the frames that cannot go straight from guest to guest: those that need their checksum or their
// segmentation done in software, and the switch's own.
type scratch struct {
	buffer  *guestmem.Buffer
	segment [1]guestmem.Segment
	index   [1]uint8 // the list that holds scratchFrame alone
}

// scratchHalf holds the longest frame; a segment of it goes into the other half.
const scratchHalf = 128 << 10

// scratchFrame is the index in worker.frames of a frame made in scratch memory.
const scratchFrame = virtio.BurstSize

func (s *scratch) init() (err error) {
	s.index[0] = scratchFrame
	s.buffer, err = guestmem.NewBuffer(2 * scratchHalf)
	return err
}

func (s *scratch) close() {
	if s.buffer != nil {
		s.buffer.Close()
	}
}

func (s *scratch) bytes() []byte             { return s.buffer.Bytes() }
func (s *scratch) addr(off int) guestmem.Ptr { return s.buffer.Addr(off) }
