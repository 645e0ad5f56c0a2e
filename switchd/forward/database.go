package forward

import (
	"sync"
	"sync/atomic"
	"time"

	"vhostkit/switchd/ether"
)

// Workers that learn an address wait for fdb.mu, so nobody holds it for long, however many addresses there are: what concerns a port looks at that
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

// portAddress is an address of a port.
type portAddress struct {
	mac  ether.MAC
	seen uint32 // second of the switch's clock at which it was last found fresh
}

// fdb is the forwarding database: the address table, and the same by port, with what is needed to change it.
type fdb struct {
	table atomic.Pointer[addressTable]

	mu    sync.Mutex      // what follows, and changes of tables
	ports [][]portAddress // by port, in no order
	live  int             // addresses

	// A larger table that replaces the present one when all addresses are in it, up to which address they are, and the table before, in which
	// workers that have not looked again mark what is fresh, until the next step.
	next                *addressTable
	nextPort, nextIndex int
	old                 *addressTable
}

func newFDB() *fdb {
	f := &fdb{}
	f.table.Store(newAddressTable(0))
	return f
}

// of lists a port's addresses. The caller holds mu.
func (f *fdb) of(port int) []portAddress {
	if port >= len(f.ports) {
		return nil
	}
	return f.ports[port]
}

// insert adds an address that is not there. The caller holds mu.
func (f *fdb) insert(mac ether.MAC, port int, now uint32) {
	f.grow()
	f.table.Load().put(key(mac), port)
	if f.next != nil {
		f.next.put(key(mac), port)
	}
	for len(f.ports) <= port {
		f.ports = append(f.ports, nil)
	}
	f.ports[port] = append(f.ports[port], portAddress{mac, now})
	f.live++
}

// remove takes the i-th address of a port out; the last one takes its place. The caller holds mu.
func (f *fdb) remove(port, i int) ether.MAC {
	list := f.ports[port]
	mac, last := list[i].mac, len(list)-1
	f.table.Load().take(key(mac))
	if f.next != nil {
		f.next.take(key(mac))
		if i < last { // it may be past what was moved, and come to stand before it
			f.next.put(key(list[last].mac), port)
		}
	}
	list[i] = list[last]
	f.ports[port] = list[:last]
	if last == 0 {
		f.ports[port] = nil
	}
	f.live--
	return mac
}

// grow begins a new table when the present one fills up, and goes on with one that was begun. Readers go on with the old one until they look again.
func (f *fdb) grow() {
	t := f.table.Load()
	if f.next == nil && 8*(t.used+1) > 3*len(t.slots) {
		f.next, f.nextPort, f.nextIndex = newAddressTable(f.live+1), 0, 0
	}
	for f.next != nil {
		f.move()
		if 2*(t.used+1) <= len(t.slots) {
			return
		}
	}
}

// move brings some addresses into the next table, and makes it the present one after the last. What is fresh stays marked in the old one.
func (f *fdb) move() {
	for addresses, ports := 0, 0; addresses < movedPerInsert && ports < movedPorts; {
		list := f.of(f.nextPort)
		if f.nextIndex < len(list) {
			f.next.put(key(list[f.nextIndex].mac), f.nextPort)
			f.nextIndex++
			addresses++
			continue
		}
		f.nextPort, f.nextIndex = f.nextPort+1, 0
		ports++
		if f.nextPort >= len(f.ports) {
			f.old = f.table.Load()
			f.table.Store(f.next)
			f.next = nil
			return
		}
	}
}

// age tells how many seconds ago an address was a source. The caller holds mu.
func (f *fdb) age(a *portAddress, now uint32) uint32 {
	if k := key(a.mac); f.table.Load().fresh(k) || f.old != nil && f.old.fresh(k) {
		return 0
	}
	return now - min(a.seen, now)
}

// everyPort calls fn for each port that has addresses, with mu held, which it lets go now and then.
func (f *fdb) everyPort(fn func(port int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for port, done := 0, 0; port < len(f.ports); port++ {
		n := len(f.ports[port])
		if done += 1 + n; done > pieceAddresses {
			f.mu.Unlock()
			time.Sleep(pieceBreak)
			f.mu.Lock()
			done = 1 + n
		}
		if n > 0 {
			fn(port)
		}
	}
}

// each calls fn for every address, with the seconds since it was a source. Addresses that come, go or move meanwhile may be left out, or come twice.
func (f *fdb) each(now uint32, fn func(mac ether.MAC, port int, age uint32)) {
	f.everyPort(func(port int) {
		for i := range f.ports[port] {
			a := &f.ports[port][i]
			fn(a.mac, port, f.age(a, now))
		}
	})
}

// step is to be called when the clock is about to step from now on: what is fresh was seen now. Workers whose clock has stepped make it
// fresh again.
func (f *fdb) step(now uint32) {
	f.mu.Lock()
	old := f.old
	f.old = nil
	f.mu.Unlock()
	f.everyPort(func(port int) {
		for i := range f.ports[port] {
			a := &f.ports[port][i]
			if f.table.Load().tire(key(a.mac)) || old != nil && old.fresh(key(a.mac)) {
				a.seen = now
			}
		}
	})
}
