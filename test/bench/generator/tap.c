#define _GNU_SOURCE
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int tap_open(const char *name)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0) {
		fprintf(stderr, "generator: tap %s: %s\n", name, strerror(errno));
		exit(1);
	}
	return fd;
}

unsigned tap_send(int fd, const char *frame, unsigned size, unsigned n)
{
	unsigned sent = 0;
	while (sent < n && write(fd, frame, size) == (ssize_t)size)
		sent++;
	return sent;
}

unsigned tap_receive(int fd, char *room, unsigned size)
{
	unsigned n = 0;
	while (n < 256 && read(fd, room, size) > 0)
		n++;
	return n;
}
