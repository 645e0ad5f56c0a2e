/* A vhost-user front-end as small as can be: rings in memory of its own, shared with the switch. Names are those of virtio 1.2. */
#ifndef PORT_H
#define PORT_H

#include <stdbool.h>
#include <stdint.h>

enum { RX, TX, QUEUES };
enum { HEADER = 12 }; /* struct virtio_net_hdr with num_buffers */

struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct pvirtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

struct virtq_used_elem {
	uint32_t id, len;
};

/* One ring, and what its driver remembers. */
struct queue {
	uint32_t size;
	bool packed, write;
	/* split */
	struct virtq_desc *desc;
	uint16_t *avail; /* flags, idx, ring[], used_event */
	struct virtq_used_elem *used_ring;
	uint16_t *used; /* flags, idx */
	uint16_t avail_idx, used_seen;
	/* packed */
	struct pvirtq_desc *ring;
	uint32_t *driver_event, *device_event;
	uint32_t next, seen;
	bool next_wrap, seen_wrap;

	char *data; /* buffer i is data + i * stride */
	uint32_t stride;
	int kick, call;
	bool notify; /* the device is told, and tells */
};

struct port {
	int socket;
	char *memory;
	uint64_t memory_size;
	struct queue queue[QUEUES];
	uint64_t features;
};

struct port_options {
	uint32_t ring, frame; /* descriptors; longest frame in bytes */
	bool packed, in_order, notify, hugepages;
};

/* Connects to a switch's socket and sets two rings up. It ends the program with a message when that fails. */
void port_open(struct port *p, const char *path, const struct port_options *o);

/* Waits until the switch has enabled nothing less than what was asked for is not known to front-ends: port_open sleeps a little instead. */

static inline char *buffer(struct queue *q, uint32_t id) { return q->data + (uint64_t)id * q->stride; }

/* Puts the buffer into the ring. Not visible before publish. */
static inline void offer(struct queue *q, uint16_t id, uint32_t len)
{
	if (!q->packed) {
		struct virtq_desc *d = &q->desc[id];
		if (d->len != len)
			d->len = len;
		uint16_t *slot = &q->avail[2 + (q->avail_idx & (q->size - 1))];
		if (*slot != id)
			*slot = id;
		q->avail_idx++;
		return;
	}
	struct pvirtq_desc *d = &q->ring[q->next];
	d->addr = (uint64_t)(uintptr_t)buffer(q, id);
	d->len = len;
	d->id = id;
	uint16_t flags = (q->write ? 2 : 0) | (q->next_wrap ? 1 << 7 : 1 << 15);
	__atomic_store_n(&d->flags, flags, __ATOMIC_RELEASE);
	if (++q->next == q->size) {
		q->next = 0;
		q->next_wrap = !q->next_wrap;
	}
}

static inline void publish(struct queue *q)
{
	if (!q->packed)
		__atomic_store_n(&q->avail[1], q->avail_idx, __ATOMIC_RELEASE);
}

/* How many buffers came back at most; for a packed ring only whether any did. */
static inline uint32_t returned(struct queue *q)
{
	if (!q->packed)
		return (uint16_t)(__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) - q->used_seen);
	uint16_t flags = __atomic_load_n(&q->ring[q->seen].flags, __ATOMIC_ACQUIRE);
	bool avail = flags >> 7 & 1, used = flags >> 15 & 1;
	return avail == used && used == q->seen_wrap;
}

/* Takes the next returned buffer; returned said that there is one. */
static inline uint16_t take(struct queue *q, uint32_t *len)
{
	if (!q->packed) {
		struct virtq_used_elem *e = &q->used_ring[q->used_seen++ & (q->size - 1)];
		*len = e->len;
		return (uint16_t)e->id;
	}
	struct pvirtq_desc *d = &q->ring[q->seen];
	uint16_t id = d->id;
	*len = d->len;
	if (++q->seen == q->size) {
		q->seen = 0;
		q->seen_wrap = !q->seen_wrap;
	}
	return id;
}

/* Wakes the switch if it sleeps. */
void kick(struct queue *q);

/* Asks to be called for the next buffer, or not. */
void want_calls(struct queue *q, bool want);

#endif
