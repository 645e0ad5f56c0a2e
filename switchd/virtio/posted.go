package virtio

import "vhostkit/switchd/guestmem"

// maxPosted bounds the descriptors that Posted looks at, in the ring and in indirect tables together.
const maxPosted = 4096

// Posted lists where the buffers lie that the ring's descriptors name, for populating them before the ring starts. It reads the descriptor
// table from front to back: each buffer that is posted is in it, and what else is there was posted last and will be used again soon. Nothing is
// changed, and nothing is an error: descriptors that are not to be followed are passed over. It maps the pages that it reads beforehand
// (guestmem.Memory.Require), and the memory must stay open; reading may fault nevertheless (guestmem.Contain).
func (q *Queue) Posted(list *guestmem.Ranges) {
	if !q.memory.Require(q.desc, descSize*uint64(q.size)) {
		return
	}
	left := maxPosted
	q.postedIn(list, q.desc, int(q.size), &left, q.indirect)
}

// RequireAreas maps the pages of the ring itself, which the first look at it touches.
func (q *Queue) RequireAreas() {
	desc, driver, device := AreaSizes(q.size, q.packed)
	q.memory.Require(q.desc, desc)
	q.memory.Require(q.driver, driver)
	q.memory.Require(q.device, device)
}

func (q *Queue) postedIn(list *guestmem.Ranges, table guestmem.Ptr, entries int, left *int, follow bool) {
	var hint guestmem.Hint
	for i := 0; i < entries && *left > 0; i++ {
		*left--
		d := table + guestmem.Ptr(i)*descSize
		addr, word := d.LoadU64(), (d + 8).LoadU64()
		flags := uint16(word >> 32)
		if q.packed {
			flags = uint16(word >> 48)
		}
		p, n := q.memory.Translate(addr, uint64(uint32(word)), &hint)
		switch {
		case n == 0:
		case flags&descIndirect == 0:
			list.Add(p, n)
		case follow:
			if n = min(n, descSize*uint64(*left)); q.memory.PopulateNow(p, n) {
				q.postedIn(list, p, int(n/descSize), left, false)
			}
		}
	}
}
