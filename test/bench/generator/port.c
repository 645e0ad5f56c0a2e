#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* vhost-user messages and feature bits. */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,

	VIRTIO_F_EVENT_IDX = 29,
	VHOST_USER_F_PROTOCOL_FEATURES = 30,
	VIRTIO_F_VERSION_1 = 32,
	VIRTIO_F_RING_PACKED = 34,
	VIRTIO_F_IN_ORDER = 35,
};

struct message {
	uint32_t request, flags, size;
	union {
		uint64_t u64;
		struct {
			uint32_t index, num;
		} state;
		struct {
			uint32_t index, flags;
			uint64_t desc, used, avail, log;
		} addr;
		struct {
			uint32_t count, padding;
			struct {
				uint64_t guest, size, user, offset;
			} region[1];
		} memory;
	};
} __attribute__((packed));

static void die(const char *what)
{
	fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void send_message(int socket, uint32_t request, struct message *m, uint32_t size, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {0};
	m->request = request;
	m->flags = 1;
	m->size = size;
	struct iovec io = {m, 12 + size};
	struct msghdr h = {.msg_iov = &io, .msg_iovlen = 1};
	if (fd >= 0) {
		h.msg_control = control;
		h.msg_controllen = sizeof control;
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	if (sendmsg(socket, &h, MSG_NOSIGNAL) != (ssize_t)(12 + size))
		die("sending a vhost-user message");
}

static uint64_t ask(int socket, uint32_t request)
{
	struct message m = {0};
	send_message(socket, request, &m, 0, -1);
	if (recv(socket, &m, 12 + 8, MSG_WAITALL) != 20)
		die("the switch does not answer");
	return m.u64;
}

static void tell(int socket, uint32_t request, uint64_t value)
{
	struct message m = {.u64 = value};
	send_message(socket, request, &m, 8, -1);
}

static void state(int socket, uint32_t request, uint32_t index, uint32_t num)
{
	struct message m = {.state = {index, num}};
	send_message(socket, request, &m, 8, -1);
}

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

/* Lays a queue out in memory and puts buffers behind the receive ring. */
static char *lay_out(struct queue *q, char *at, const struct port_options *o, bool write)
{
	q->size = o->ring;
	q->packed = o->packed;
	q->write = write;
	q->notify = o->notify;
	/* An odd number of cache lines, so that buffers do not fall onto the same sets of the cache. */
	q->stride = (uint32_t)round_up(o->frame + HEADER + 128, 128) + 64;
	q->kick = eventfd(0, EFD_NONBLOCK);
	q->call = eventfd(0, EFD_NONBLOCK);
	if (q->kick < 0 || q->call < 0)
		die("eventfd");
	char *rings = at;
	at += round_up(16 * (uint64_t)o->ring, 4096);
	char *driver = at;
	at += round_up(6 + 2 * (uint64_t)o->ring, 4096);
	char *device = at;
	at += round_up(6 + 8 * (uint64_t)o->ring, 4096);
	q->data = at;
	at += round_up((uint64_t)q->stride * o->ring, 4096);
	q->desc = (struct virtq_desc *)rings;
	q->ring = (struct pvirtq_desc *)rings;
	q->avail = (uint16_t *)driver;
	q->used = (uint16_t *)device;
	q->used_ring = (struct virtq_used_elem *)(device + 4);
	q->driver_event = (uint32_t *)driver;
	q->device_event = (uint32_t *)device;
	q->next_wrap = q->seen_wrap = true;
	if (!q->packed)
		for (uint32_t i = 0; i < q->size; i++)
			q->desc[i] = (struct virtq_desc){(uint64_t)(uintptr_t)buffer(q, i), q->stride, write ? 2 : 0, 0};
	want_calls(q, false);
	return at;
}

static void start(struct port *p, uint32_t index, uint64_t base)
{
	struct queue *q = &p->queue[index];
	struct message m = {.addr = {index, 0, (uint64_t)(uintptr_t)q->desc, (uint64_t)(uintptr_t)q->used, (uint64_t)(uintptr_t)q->avail, 0}};
	state(p->socket, SET_VRING_NUM, index, q->size);
	state(p->socket, SET_VRING_BASE, index, (uint32_t)base);
	send_message(p->socket, SET_VRING_ADDR, &m, 40, -1);
	m.u64 = index;
	send_message(p->socket, SET_VRING_CALL, &m, 8, q->call);
	m.u64 = index;
	send_message(p->socket, SET_VRING_KICK, &m, 8, q->kick);
	state(p->socket, SET_VRING_ENABLE, index, 1);
}

void port_open(struct port *p, const char *path, const struct port_options *o)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	p->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->socket < 0 || connect(p->socket, (struct sockaddr *)&a, sizeof a) < 0)
		die(path);
	uint64_t want = 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_USER_F_PROTOCOL_FEATURES;
	if (o->packed)
		want |= 1ull << VIRTIO_F_RING_PACKED;
	if (o->in_order)
		want |= 1ull << VIRTIO_F_IN_ORDER;
	p->features = ask(p->socket, GET_FEATURES) & want;
	if (o->packed && !(p->features >> VIRTIO_F_RING_PACKED & 1)) {
		fprintf(stderr, "generator: %s does not offer packed rings\n", path);
		exit(3);
	}
	if (p->features >> VHOST_USER_F_PROTOCOL_FEATURES & 1) {
		ask(p->socket, GET_PROTOCOL_FEATURES);
		tell(p->socket, SET_PROTOCOL_FEATURES, 0);
	}
	struct message owner = {0};
	send_message(p->socket, SET_OWNER, &owner, 0, -1);
	tell(p->socket, SET_FEATURES, p->features);

	uint64_t stride = round_up(o->frame + HEADER + 128, 128) + 64;
	p->memory_size = round_up(2 * (round_up(16ull * o->ring, 4096) + round_up(6 + 2ull * o->ring, 4096) + round_up(6 + 8ull * o->ring, 4096) +
					       round_up(stride * o->ring, 4096)),
				  2 << 20);
	int fd = memfd_create("generator", MFD_CLOEXEC | (o->hugepages ? MFD_HUGETLB : 0));
	if (fd < 0 || ftruncate(fd, (off_t)p->memory_size) < 0)
		die("memory");
	p->memory = mmap(NULL, p->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (p->memory == MAP_FAILED)
		die("memory");
	/* Guest-physical addresses are our own: one region that maps them as they are. */
	uint64_t base = (uint64_t)(uintptr_t)p->memory;
	struct message m = {.memory = {.count = 1, .region = {{base, p->memory_size, base, 0}}}};
	send_message(p->socket, SET_MEM_TABLE, &m, 40, fd);
	close(fd);
	char *at = lay_out(&p->queue[RX], p->memory, o, true);
	lay_out(&p->queue[TX], at, o, false);
	for (uint32_t i = 0; i < o->ring; i++)
		offer(&p->queue[RX], (uint16_t)i, p->queue[RX].stride);
	publish(&p->queue[RX]);
	/* The position of a packed ring has its wrap counter at bit 15, twice where both positions are told. */
	start(p, RX, o->packed ? 0x80008000 : 0);
	start(p, TX, o->packed ? 0x80008000 : 0);
}

void kick(struct queue *q)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	bool wanted = q->packed ? (__atomic_load_n(q->device_event, __ATOMIC_ACQUIRE) >> 16 & 3) != 1 : !(__atomic_load_n(&q->used[0], __ATOMIC_ACQUIRE) & 1);
	uint64_t one = 1;
	if (wanted && write(q->kick, &one, 8) < 0 && errno != EAGAIN)
		die("kick");
}

void want_calls(struct queue *q, bool want)
{
	if (q->packed)
		__atomic_store_n(q->driver_event, (want ? 0u : 1u) << 16, __ATOMIC_RELEASE);
	else
		__atomic_store_n(&q->avail[0], want ? 0 : 1, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
