// Package forward is the switch itself: ports, the forwarding modes of DPDK's vhost sample (--vm2vm), and the workers
// that move frames from one virtqueue straight into another or to the uplink. It knows neither sockets nor NIC registers.
//
// A worker is one operating system thread. Each round it polls the transmit rings of the ports given to it and its queues of the uplink, in
// bursts: the Ethernet header of each frame is copied once into the worker's own memory, the decision is made on that copy, and that copy
// is what the receiver gets, so that a guest that rewrites its buffer meanwhile changes nothing. The payload is copied once, from the
// sender's buffers into the receiver's.
//
// What workers look at (which rings there are, who polls which) is an immutable table that the control side replaces as a whole. A change
// is complete when every worker has passed the top of its loop since: only then may rings be stopped and memory unmapped. A receive ring
// may get frames from several workers; it has one owner at a time, taken once a burst.
//
// A fault on guest memory (a front-end that truncated its file) is recovered once a burst, blamed on the device whose memory it was, and
// stops that device only.
package forward
