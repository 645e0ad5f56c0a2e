package bridge

import (
	"sync"
	"sync/atomic"
	"time"

	"vhostkit/switchd/ether"
)

// Workers that learn an address wait for Domain.mu, so nobody holds it for long, however many addresses there are: what concerns a port looks at that
// port's addresses only, what concerns all is done in pieces, and a table that becomes too small is replaced little by little.
const (
	// pieceAddresses is how many addresses are looked at before mu is let go: about 0.1 ms.
	pieceAddresses = 2048
	// pieceBreak is how long it is let go at least. A mutex that is taken again at once is not given to those who wait for it.
	pieceBreak = 20 * time.Microsecond
	// movedPerInsert is how many addresses move to the next table with every address that is entered, and movedPorts how many ports are looked at
	// for that: each may touch a page for the first time. The table is full to 3/8 when that begins, and would be to 1/2 after slots/8 more
	// addresses.
	movedPerInsert = 32
	movedPorts     = 512
)

// entry is an address of a port.
type entry struct {
	mac  ether.MAC
	seen uint32 // second of the owner's clock at which it was last found fresh
}

// port is what the domain knows of a port of its.
type port struct {
	addresses []entry   // in no order
	newest    ether.MAC // last address learned
	joined    bool
	entered   func()
}

// Config says who wants to know what. The functions are called with the domain's lock held: they must neither block nor call the domain.
type Config struct {
	Entering func(at Destination)                // an address of that port is about to be entered
	Entered  func(mac ether.MAC, at Destination) // and was
	Left     func(mac ether.MAC, at Destination) // an address was removed
}

// Domain is a broadcast domain as a bridge sees it (IEEE 802.1Q, 8.8: the filtering database): which addresses are behind which port. The table
// is what workers read; the rest is the same by port, with what is needed to change it.
type Domain struct {
	config Config
	table  atomic.Pointer[Table]
	_      [56]byte // workers read the table all the time, and lock mu to learn

	mu    sync.Mutex // what follows, and changes of tables
	ports []port     // by destination
	live  int        // addresses

	// A larger table that replaces the present one when all addresses are in it, up to which address they are, and the table before, in which
	// workers that have not looked again mark what is fresh, until the next step.
	next      *Table
	nextPort  Destination
	nextIndex int
	old       *Table
}

// NewDomain makes a domain that knows nobody. Functions that are nil are not called.
func NewDomain(c Config) *Domain {
	if c.Entering == nil {
		c.Entering = func(Destination) {}
	}
	if c.Entered == nil {
		c.Entered = func(ether.MAC, Destination) {}
	}
	if c.Left == nil {
		c.Left = func(ether.MAC, Destination) {}
	}
	d := &Domain{config: c}
	d.table.Store(newTable(0))
	return d
}

// Table is the present table. Workers look again at the top of their loops.
func (d *Domain) Table() *Table { return d.table.Load() }

// at gives a port's record. The caller holds mu.
func (d *Domain) at(to Destination) *port {
	for int(to) >= len(d.ports) {
		d.ports = append(d.ports, port{})
	}
	return &d.ports[to]
}

// of lists a port's addresses. The caller holds mu.
func (d *Domain) of(to Destination) []entry {
	if int(to) >= len(d.ports) {
		return nil
	}
	return d.ports[to].addresses
}

// insert adds an address that is not there. The caller holds mu.
func (d *Domain) insert(mac ether.MAC, to Destination, now uint32) {
	d.grow()
	d.table.Load().put(Key(mac), to)
	if d.next != nil {
		d.next.put(Key(mac), to)
	}
	p := d.at(to)
	p.addresses = append(p.addresses, entry{mac, now})
	d.live++
}

// remove takes the i-th address of a port out; the last one takes its place. The caller holds mu.
func (d *Domain) remove(to Destination, i int) ether.MAC {
	list := d.ports[to].addresses
	mac, last := list[i].mac, len(list)-1
	d.table.Load().take(Key(mac))
	if d.next != nil {
		d.next.take(Key(mac))
		if i < last { // it may be past what was moved, and come to stand before it
			d.next.put(Key(list[last].mac), to)
		}
	}
	list[i] = list[last]
	if list = list[:last]; last == 0 {
		list = nil
	}
	d.ports[to].addresses = list
	d.live--
	return mac
}

// grow begins a new table when the present one fills up, and goes on with one that was begun. Readers go on with the old one until they look again.
func (d *Domain) grow() {
	t := d.table.Load()
	if d.next == nil && 8*(t.used+1) > 3*len(t.slots) {
		d.next, d.nextPort, d.nextIndex = newTable(d.live+1), 0, 0
	}
	for d.next != nil {
		d.move()
		if 2*(t.used+1) <= len(t.slots) {
			return
		}
	}
}

// move brings some addresses into the next table, and makes it the present one after the last. What is fresh stays marked in the old one.
func (d *Domain) move() {
	for addresses, ports := 0, 0; addresses < movedPerInsert && ports < movedPorts; {
		list := d.of(d.nextPort)
		if d.nextIndex < len(list) {
			d.next.put(Key(list[d.nextIndex].mac), d.nextPort)
			d.nextIndex++
			addresses++
			continue
		}
		d.nextPort, d.nextIndex = d.nextPort+1, 0
		ports++
		if int(d.nextPort) >= len(d.ports) {
			d.old = d.table.Load()
			d.table.Store(d.next)
			d.next = nil
			return
		}
	}
}

// age tells how many seconds ago an address was a source. The caller holds mu.
func (d *Domain) age(a *entry, now uint32) uint32 {
	if k := Key(a.mac); d.table.Load().fresh(k) || d.old != nil && d.old.fresh(k) {
		return 0
	}
	return now - min(a.seen, now)
}

// everyPort calls fn for each port that has addresses, with mu held, which it lets go now and then.
func (d *Domain) everyPort(fn func(at Destination)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, done := 0, 0; i < len(d.ports); i++ {
		n := len(d.ports[i].addresses)
		if done += 1 + n; done > pieceAddresses {
			d.mu.Unlock()
			time.Sleep(pieceBreak)
			d.mu.Lock()
			done = 1 + n
		}
		if n > 0 {
			fn(Destination(i))
		}
	}
}

// Each calls fn for every address, with the seconds since it was a source. Addresses that come, go or move meanwhile may be left out, or come twice.
func (d *Domain) Each(now uint32, fn func(mac ether.MAC, at Destination, age uint32)) {
	d.everyPort(func(at Destination) {
		list := d.of(at)
		for i := range list {
			fn(list[i].mac, at, d.age(&list[i], now))
		}
	})
}

// Step is to be called when the clock is about to step from now on: what is fresh was seen now. Workers whose clock has stepped make it
// fresh again.
func (d *Domain) Step(now uint32) {
	d.mu.Lock()
	old := d.old
	d.old = nil
	d.mu.Unlock()
	d.everyPort(func(at Destination) {
		list := d.of(at)
		for i := range list {
			a := &list[i]
			if d.table.Load().tire(Key(a.mac)) || old != nil && old.fresh(Key(a.mac)) {
				a.seen = now
			}
		}
	})
}
