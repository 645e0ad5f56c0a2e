package forward

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

// filtering is an uplink that keeps filters, as far as it is let.
type filtering struct {
	uplink.Uplink // what is not needed here
	mu            sync.Mutex
	have          map[string]bool
	calls         []string
	failing       error // what AddFilter says
}

func (u *filtering) Pools() int                            { return 8 }
func (u *filtering) Queues() int                           { return 1 }
func (u *filtering) Queue(int) uplink.Queue                { return u }
func (u *filtering) FD() int                               { return -1 }
func (u *filtering) Receive([]uplink.RxFrame) (int, error) { return 0, nil }

func (u *filtering) note(format string, args ...any) {
	u.calls = append(u.calls, fmt.Sprintf(format, args...))
}

func (u *filtering) Send(frames []uplink.TxFrame, _ *uplink.InFlight) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.note("send %d", frames[0].Pool)
	return len(frames), nil
}

func (u *filtering) Expect(port uplink.Pool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.note("expect %d", port)
}

// The switch asks for these at run time, and would do without.
var (
	_ uplink.Filterer = (*filtering)(nil)
	_ uplink.Checker  = (*filtering)(nil)
)

func (u *filtering) AddFilter(port uplink.Pool, mac ether.MAC, vlan ether.VLAN) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failing == nil || errors.Is(u.failing, uplink.ErrNoPool) {
		u.have[fmt.Sprint(port, mac, vlan)] = true
	}
	return u.failing
}

func (u *filtering) RemoveFilter(port uplink.Pool, mac ether.MAC, vlan ether.VLAN) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.have, fmt.Sprint(port, mac, vlan))
	return nil
}

// filterRig is a switch that does not run: the test is its worker and its event goroutine. There is room for two events.
func filterRig(t *testing.T, ports int) (*Switch, *filtering, []*Port, *[]Event) {
	t.Helper()
	u := &filtering{have: map[string]bool{}}
	var told []Event
	s := New(Config{Uplink: u, VLANBase: 1000, MACLimit: 64, OnEvent: func(e Event) { told = append(told, e) }})
	s.events = make(chan Event, 2)
	var list []*Port
	for range ports {
		p, err := s.AddPort(func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return s, u, list, &told
}

// inStep wants the uplink to have the filters of the address table, and those only.
func (u *filtering) inStep(t *testing.T, s *Switch, when string) {
	t.Helper()
	want := map[string]bool{}
	for _, a := range s.Addresses() {
		want[fmt.Sprint(a.Port, a.MAC, a.VLAN)] = true
	}
	if !maps.Equal(u.have, want) {
		t.Errorf("%s: the uplink has the filters %v, want %v", when, slices.Sorted(maps.Keys(u.have)), slices.Sorted(maps.Keys(want)))
	}
}

// What the event queue has no room for reaches the uplink all the same: neither does a guest stay unreachable, nor a filter behind.
func TestLostEventsAboutAddresses(t *testing.T) {
	s, u, ports, told := filterRig(t, 2)
	for i := range 10 {
		if _, ok := s.register(ports[i%2], ether.MAC(0x020000000001+i), 1); !ok {
			t.Fatal("not learned")
		}
	}
	if lost := s.EventsLost(); lost != 8 {
		t.Errorf("%d events were counted as lost, want 8 of ten", lost)
	}
	s.catchUp()
	u.inStep(t, s, "after ten were learned")
	if len(*told) != 10 {
		t.Errorf("%d events were passed on, want 10: %+v", len(*told), *told)
	}
	*told = nil
	s.domain.Flush(ports[0].id.destination())
	for i := range 4 { // some of them move to the other port
		if _, ok := s.register(ports[1], ether.MAC(0x020000000001+2*i), 1); !ok {
			t.Fatal("not learned")
		}
	}
	s.catchUp()
	u.inStep(t, s, "after a port has left, and the other took over its addresses")
	if len(s.Addresses()) != 9 || len(s.filters) != 9 {
		t.Errorf("%d addresses and %d filters, want 9", len(s.Addresses()), len(s.filters))
	}
	gone, come := 0, 0
	for _, e := range *told {
		switch {
		case e.Kind == EventUnregistered && e.Port == 0:
			gone++
		case e.Kind == EventRegistered && e.Port == 1:
			come++
		default:
			t.Errorf("this was passed on: %+v", e)
		}
	}
	if gone != 5 || come != 4 {
		t.Errorf("%d addresses were said to have gone and %d to have come, want 5 and 4", gone, come)
	}
	for _, p := range ports {
		s.domain.Flush(p.id.destination())
	}
	s.catchUp()
	u.inStep(t, s, "after all have left")
	s.catchUp() // nothing is left to be done
	if len(s.filters) != 0 || len(s.events) != 0 {
		t.Errorf("%d filters, %d events are left", len(s.filters), len(s.events))
	}
}

// A filter that the uplink did not take is asked for again, and the switch leaves to the hardware what that knows by then.
func TestRefusedFiltersAreRetried(t *testing.T) {
	s, u, ports, told := filterRig(t, 9)
	const a, b, c = ether.MAC(0x020000000001), ether.MAC(0x020000000002), ether.MAC(0x020000000003)
	loops := func(to ether.MAC, port PortID) bool { return s.loopVLAN(a, 0, to, port) != 0 }
	u.failing = errors.New("it hangs")
	s.register(ports[0], a, 1)
	s.register(ports[1], b, 1)
	s.handle(<-s.events)
	s.handle(<-s.events)
	if len(*told) != 2 || (*told)[0].Err == nil || loops(b, 1) {
		t.Errorf("events %+v, and the hardware loops what it does not know: %v", *told, loops(b, 1))
	}
	s.retryFilters()
	u.inStep(t, New(Config{}), "while it hangs")
	u.failing = nil
	s.retryFilters()
	u.inStep(t, s, "when it has recovered")
	if !loops(b, 1) || len(s.refused) != 0 {
		t.Errorf("the hardware knows both, and is not used; %d are refused", len(s.refused))
	}
	u.failing = uplink.ErrNoPool // it delivers by way of the switch
	s.register(ports[0], c, 1)
	s.register(ports[8], c+1, 1)
	s.handle(<-s.events)
	s.handle(<-s.events)
	if s.retryFilters(); loops(c, 0) {
		t.Error("the hardware has no place for an address, and is to loop it")
	}
	u.failing = nil
	if s.retryFilters(); !loops(c, 0) {
		t.Error("the hardware has made room for an address, and is not used")
	}
	s.domain.Flush(ports[8].id.destination())
	s.handle(<-s.events)
	if len(s.refused) != 0 {
		t.Errorf("%d addresses are refused that are gone", len(s.refused))
	}
	u.inStep(t, s, "in the end")
}

// The uplink hears of a new address before the frame that has it.
func TestNewAddressesAreExpected(t *testing.T) {
	u := &filtering{have: map[string]bool{}}
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Uplink: u})
	g := newGuest(t, s, 64)
	g.send(testFrame(9, 1, 100, 0), testFrame(9, 2, 100, 0))
	waitFor(t, func() bool { return g.tx.usedIndex() == 2 })
	g.send(testFrame(9, 1, 100, 0))
	waitFor(t, func() bool { return g.tx.usedIndex() == 3 })
	u.mu.Lock()
	defer u.mu.Unlock()
	expected := 0
	for i, c := range u.calls {
		if c == "expect 0" {
			expected++
		} else if c != "send 0" || expected == 0 {
			t.Errorf("call %d is %q", i, c)
		}
	}
	if expected != 2 || u.calls[len(u.calls)-1] != "send 0" {
		t.Errorf("the uplink was called so: %q, want two addresses expected, before their frames", u.calls)
	}
}
