package cuse

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzMessages: whatever the kernel passes on, nothing breaks, every request but an interrupt gets one answer, and the server goes on.
//
// An input is a series of messages: a length, an operation, an ioctl, and what follows. Half of the messages are made to be well formed so
// that what is behind the first checks is reached.
func FuzzMessages(f *testing.F) {
	message := func(kind, cmd byte, data ...byte) []byte { return append([]byte{byte(len(data)), kind, cmd}, data...) }
	all := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	f.Add(message(0, 0))
	f.Add(all(message(1, 2), message(1, 1, words(1)...), message(1, 7, words(0, 16)...), message(1, 11, words(0, 0)...)))
	f.Add(all(message(1, 2), message(1, 4, append(words(1, 0), make([]byte, 32)...)...), message(1, 8, make([]byte, 40)...)))
	f.Add(all(message(2, 18, make([]byte, 24)...), message(2, 36, make([]byte, 8)...), message(2, 39, make([]byte, 32)...)))
	f.Add(all(message(1, 2), message(1, 12, words(1, noFD)...), message(1, 20, words(0, noFD)...), message(1, 10, words(0, 0)...)))
	f.Fuzz(func(t *testing.T, input []byte) {
		k := boot(t)
		h := k.open()
		for messages := 0; len(input) >= 3 && messages < 64; messages++ {
			size, kind, cmd := int(input[0]), input[1], input[2]
			input = input[3:]
			body := input[:min(size, len(input))]
			input = input[len(body):]
			switch kind % 3 {
			case 0: // an ioctl as the kernel would pass it on the first time
				k.ioctlOnce(h, FUSE_IOCTL_UNRESTRICTED, cmdOf(cmd), nil, 0)
			case 1: // with the memory that it asks for
				k.ioctl(h, cmdOf(cmd), body)
			case 2:
				opcode := uint32(cmd)
				if opcode == FUSE_INTERRUPT {
					k.send(opcode, body)
					continue
				}
				k.ask(opcode, body)
			}
		}
		k.tid = 1 // of a process that is there and is not ours
		k.ioctl(h, VHOST_SET_OWNER, nil)
		k.open()
		if errno, _ := k.ioctl(k.open(), VHOST_GET_FEATURES, nil); errno != 0 {
			t.Errorf("a new device: %v", errno)
		}
	})
}

// cmdOf makes every known ioctl likely.
func cmdOf(b byte) ioctl {
	known := []ioctl{
		VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_OWNER, VHOST_RESET_OWNER, VHOST_SET_MEM_TABLE, VHOST_SET_LOG_BASE, VHOST_SET_LOG_FD,
		VHOST_SET_VRING_NUM, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE, VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL,
		VHOST_SET_VRING_ERR, VHOST_SET_VRING_ENDIAN, VHOST_GET_VRING_ENDIAN, VHOST_SET_VRING_BUSYLOOP_TIMEOUT, VHOST_GET_VRING_BUSYLOOP_TIMEOUT,
		VHOST_SET_BACKEND_FEATURES, VHOST_GET_BACKEND_FEATURES, VHOST_NET_SET_BACKEND,
	}
	if int(b) < len(known) {
		return known[b]
	}
	return ioctl(uint32(b) * 0x01010101)
}

// FuzzDecode: decoders of single structures, on bytes that nobody has looked at before.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(words(48, FUSE_IOCTL), make([]byte, 40)...))
	f.Add(table(guestRegion{1, 2, 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, body, err := decodeRequest(b); err == nil {
			if len(body)+inHeaderSize != len(b) {
				t.Errorf("%+v: body of %d bytes in %d", h, len(body), len(b))
			}
			if in, err := decodeIoctl(body); err == nil && len(in.Data)+ioctlInSize != len(body) {
				t.Errorf("%+v in %d bytes", in, len(body))
			}
			_, _ = answerInit(h, body, "x")
		}
		for cmd, r := range requests {
			in, out, ready, errno := r.wanted(cmd, ioctlIn{Arg: 1, OutSize: 8, Data: b})
			if (ready || errno != 0) != (len(in)+len(out) == 0) || ready && errno != 0 {
				t.Errorf("%v of %d bytes: %v %v %v %v", cmd, len(b), in, out, ready, errno)
			}
			for _, s := range in {
				if s.Len > tableSize+510*regionSize {
					t.Errorf("%v wants %d bytes", cmd, s.Len)
				}
			}
		}
		if len(b) < tableSize {
			return
		}
		regions, errno := decodeTable(b)
		if errno == 0 && tableSize+len(regions)*regionSize != len(b) {
			t.Errorf("%d regions in %d bytes", len(regions), len(b))
		}
		for _, r := range regions {
			if r.Size == 0 || r.end() < r.UserAddr {
				t.Errorf("%+v", r)
			}
		}
		if errno != 0 && errno != unix.E2BIG && errno != unix.EFAULT && errno != unix.EOPNOTSUPP {
			t.Errorf("%v", errno)
		}
	})
}
