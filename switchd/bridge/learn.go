package bridge

import "vhostkit/switchd/ether"

// evictAfter is how many seconds an address must have been silent before a port at its limit may replace it.
const evictAfter = 1

// Outcome says what has become of a source address.
type Outcome int

const (
	Known   Outcome = iota // it is that port's
	Learned                // it is so from now on
	Taken                  // it is another port's
	Full                   // the port has as many addresses as it may have, and none of them silent
	Away                   // the port is not in the domain
)

// Join makes a port of the domain, whose addresses may be learned. entered, if it is not nil, is called with each, as Config's functions are and before
// them; after Leave it is called no more.
func (d *Domain) Join(at Destination, entered func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.at(at)
	p.joined, p.newest, p.entered = true, 0, entered
}

// Leave ends that. All addresses of the port are forgotten when it returns, and none is learned any more.
func (d *Domain) Leave(at Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.at(at)
	p.joined, p.entered = false, nil
	d.flush(at)
}

// Flush forgets all addresses of a port.
func (d *Domain) Flush(at Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flush(at)
}

func (d *Domain) flush(at Destination) {
	for n := len(d.of(at)); n > 0; n-- {
		d.forget(at, n-1)
	}
}

// Learn enters an address for a port that may have limit of them, if it is not known: whoever looked before may have been slower than another
// worker. now is the second of the owner's clock. An address that is another's is not taken from it; owner tells whose.
func (d *Domain) Learn(mac ether.MAC, at Destination, limit int, now uint32) (outcome Outcome, owner Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.at(at)
	if !p.joined {
		return Away, None
	}
	switch owner = d.table.Load().Find(mac); owner {
	case at:
		return Known, at
	case None:
	default:
		return Taken, owner
	}
	if len(p.addresses) >= limit && !d.evictOldest(at, now) {
		return Full, None
	}
	d.config.Entering(at)
	d.insert(mac, at, now)
	p.newest = mac
	if p.entered != nil {
		p.entered()
	}
	d.config.Entered(mac, at)
	return Learned, at
}

// evictOldest frees an address of a port that is at its limit. The caller holds mu.
func (d *Domain) evictOldest(at Destination, now uint32) bool {
	oldest, oldestAge := -1, uint32(evictAfter-1)
	list := d.of(at)
	for i := range list {
		if age := d.age(&list[i], now); age > oldestAge {
			oldest, oldestAge = i, age
		}
	}
	if oldest < 0 {
		return false
	}
	d.forget(at, oldest)
	return true
}

// forget removes the i-th address of a port and tells. The caller holds mu.
func (d *Domain) forget(at Destination, i int) { d.config.Left(d.remove(at, i), at) }

// Age removes addresses that were silent for more than limit seconds. The newest address of a port stays: a guest that only listens must remain
// reachable.
func (d *Domain) Age(now, limit uint32) {
	d.everyPort(func(at Destination) {
		p := d.at(at)
		for i := len(p.addresses) - 1; i >= 0; i-- { // what takes the place of one that goes was looked at before
			if a := &p.addresses[i]; a.mac != p.newest && d.age(a, now) > limit {
				d.forget(at, i)
			}
		}
	})
}
