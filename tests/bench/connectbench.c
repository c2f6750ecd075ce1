// SPDX-License-Identifier: Apache-2.0
/*
 * What it costs to be connected: the time of one connect() or sendto(), to each of several targets in turn, so that what the machine does
 * meanwhile meets all of them.
 *
 *   connectbench tcp|udp|sendto COUNT ADDRESS PORT [ADDRESS PORT]...
 *
 * Prints one JSON line: for each target the median and the 99th percentile in nanoseconds, and the median of the differences to the first
 * one within a turn. tcp wants the server of `netbench serve` (crr), which closes first, so that the client's ports stay free.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_TARGETS = 8 };

struct target {
	struct sockaddr_storage to;
	socklen_t size;
	int fd; /* of sendto */
	long long *samples, *differences;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	long long d = *(const long long *)a - *(const long long *)b;

	return (d > 0) - (d < 0);
}

static void parse(struct target *t, const char *address, int port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&t->to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&t->to;

	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		t->size = sizeof(*v4);
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		t->size = sizeof(*v6);
	} else {
		fprintf(stderr, "not an address: %s\n", address);
		exit(2);
	}
}

static long long measure(struct target *t, const char *kind)
{
	int stream = !strcmp(kind, "tcp"), one = 1, fd;
	long long start, took;
	char byte = 'x';

	if (!strcmp(kind, "sendto")) {
		start = now();
		if (sendto(t->fd, &byte, 1, 0, (struct sockaddr *)&t->to, t->size) != 1)
			die("sendto");
		return now() - start;
	}
	fd = socket(t->to.ss_family, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	if (fd < 0)
		die("socket");
	start = now();
	if (connect(fd, (struct sockaddr *)&t->to, t->size))
		die("connect");
	took = now() - start;
	if (stream) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 0)
			die("exchange");
	}
	close(fd);
	return took;
}

int main(int argc, char **argv)
{
	struct target targets[MOST_TARGETS] = { 0 };
	int count = argc > 2 ? atoi(argv[2]) : 0, number = (argc - 3) / 2;

	if (count <= 0 || number < 1 || number > MOST_TARGETS || argc != 3 + 2 * number) {
		fprintf(stderr, "connectbench tcp|udp|sendto COUNT ADDRESS PORT [ADDRESS PORT]...\n");
		return 2;
	}
	for (int i = 0; i < number; i++) {
		parse(&targets[i], argv[3 + 2 * i], atoi(argv[4 + 2 * i]));
		targets[i].fd = socket(targets[i].to.ss_family, SOCK_DGRAM, 0);
		targets[i].samples = calloc(count, sizeof(long long));
		targets[i].differences = calloc(count, sizeof(long long));
	}
	for (int turn = -count / 10; turn < count; turn++) {
		for (int i = 0; i < number; i++) {
			/* Every target is as often first as it is last. */
			int which = (i + (unsigned)turn) % number;
			long long took = measure(&targets[which], argv[1]);

			if (turn >= 0)
				targets[which].samples[turn] = took;
		}
	}
	for (int i = number - 1; i >= 0; i--)
		for (int turn = 0; turn < count; turn++)
			targets[i].differences[turn] = targets[i].samples[turn] - targets[0].samples[turn];
	putchar('[');
	for (int i = 0; i < number; i++) {
		qsort(targets[i].samples, count, sizeof(long long), compare);
		qsort(targets[i].differences, count, sizeof(long long), compare);
		printf("%s{\"p50_ns\": %lld, \"p99_ns\": %lld, \"more_ns\": %lld}", i ? ", " : "", targets[i].samples[count / 2],
		       targets[i].samples[count * 99LL / 100], targets[i].differences[count / 2]);
	}
	puts("]");
	return 0;
}
