/* What guests do with a frame's bytes: write all of them, and read all of them. In line and as fast as one thread can, so that the switch is
   the limit. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdint.h>
#include <string.h>

typedef uint64_t vector __attribute__((vector_size(64), aligned(1), may_alias));

enum { VECTOR = sizeof(vector), LONG_WRITE = 512 }; /* from which length on the library's memset is as fast */

/* Writes n bytes of one value. */
static inline __attribute__((always_inline)) void write_bytes(char *b, uint8_t value, uint32_t n)
{
	if (n < VECTOR || n > LONG_WRITE) {
		if (n > LONG_WRITE)
			memset(b, value, n);
		else
			for (uint32_t i = 0; i < n; i++)
				b[i] = (char)value;
		return;
	}
	vector v = (vector){0} + value * 0x0101010101010101ull;
	char *last = b + n - VECTOR;
	for (; b < last; b += VECTOR)
		*(vector *)b = v;
	*(vector *)last = v;
}

/* Reads n bytes; the sum is there so that the compiler leaves the loads in. */
static inline __attribute__((always_inline)) uint64_t read_bytes(const char *b, uint32_t n)
{
	uint64_t sum = 0, word;
	if (n < VECTOR) {
		for (; n >= 8; n -= 8, b += 8) {
			memcpy(&word, b, 8);
			sum += word;
		}
		while (n--)
			sum += (uint8_t)*b++;
		return sum;
	}
	vector v = {0};
	const char *last = b + n - VECTOR;
	for (; b < last; b += VECTOR)
		v += *(const vector *)b;
	v += *(const vector *)last;
	for (int i = 0; i < 8; i++)
		sum += v[i];
	return sum;
}

#endif
