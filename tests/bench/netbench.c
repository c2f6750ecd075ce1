// SPDX-License-Identifier: Apache-2.0
/*
 * What a path through the network costs, in three shapes: one TCP stream, request and response on one connection, and
 * connect-request-close. One process serves, another asks and prints one JSON line.
 *
 *   netbench [-c CPU] serve ADDRESS
 *   netbench [-c CPU] [-p PORT] stream|rr|crr ADDRESS SECONDS
 *   netbench probe
 *
 * PORT is the first of three, for stream, rr and crr. The server closes first in crr, so that TIME_WAIT collects there and the
 * client's ports stay free.
 *
 * A probe says that it is ready, reads "NUMBER ADDRESS PORT" lines, tries each address by connect-request-close until it is answered
 * for the first time, and prints "NUMBER SECONDS" of the monotonic clock, which all processes of a machine share.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT_STREAM = 7001, PORT_RR = 7002, PORT_CRR = 7003, CHUNK = 128 * 1024, MOST_SAMPLES = 1 << 21, MOST_PROBES = 1024 };

/* An attempt that neither succeeds nor fails for so long has lost a packet: the kernel's own second try comes after a second. */
static const double attempt_s = 0.02;

static int first_port = PORT_STREAM;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static socklen_t address(struct sockaddr_storage *out, const char *text, int port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1) {
		fprintf(stderr, "not an address: %s\n", text);
		exit(2);
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	return sizeof(*v6);
}

static int dial(const char *text, int port)
{
	struct sockaddr_storage to;
	socklen_t size = address(&to, text, port);
	int one = 1, fd = socket(to.ss_family, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, size))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void *serve_connection(void *argument)
{
	int fd = (int)(long)argument;
	char *buffer = malloc(CHUNK);
	struct sockaddr_storage local;
	socklen_t size = sizeof(local);
	int one = 1;

	getsockname(fd, (struct sockaddr *)&local, &size);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	/* The port is at the same place in both families' addresses. */
	int port = ntohs(((struct sockaddr_in *)&local)->sin_port);
	ssize_t n;

	while ((n = read(fd, buffer, port == PORT_STREAM ? CHUNK : 1)) > 0)
		if (port == PORT_RR && write(fd, buffer, n) != n)
			break;
	free(buffer);
	close(fd);
	return NULL;
}

static void *serve_port(void *argument)
{
	const struct sockaddr_storage *at = argument;
	int one = 1, fd = socket(at->ss_family, SOCK_STREAM, 0);
	char byte;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)at, sizeof(*at)) || listen(fd, 1024))
		die("bind");
	int crr = ntohs(((const struct sockaddr_in *)at)->sin_port) == PORT_CRR;

	for (;;) {
		int client = accept(fd, NULL, NULL);
		pthread_t thread;

		if (client < 0)
			continue;
		if (crr) { /* in line: a thread for each connection would be measured, not the path */
			setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			if (read(client, &byte, 1) == 1 && write(client, &byte, 1) != 1)
				perror("write");
			close(client);
		} else if (!pthread_create(&thread, NULL, serve_connection, (void *)(long)client)) {
			pthread_detach(thread);
		}
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	float d = *(const float *)a - *(const float *)b;

	return (d > 0) - (d < 0);
}

static void print_latency(float *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), compare);
	printf("{\"p50_us\": %.2f, \"p99_us\": %.2f, \"count\": %zu}\n", samples[count / 2], samples[count * 99 / 100], count);
}

static void stream(const char *to, double seconds)
{
	int fd = dial(to, first_port);
	char *buffer = calloc(1, CHUNK);
	double start = now(), end;
	unsigned long long sent = 0;

	while ((end = now()) < start + seconds) {
		ssize_t n = write(fd, buffer, CHUNK);

		if (n < 0)
			die("write");
		sent += n;
	}
	printf("{\"gbit_per_s\": %.3f}\n", sent * 8 / (end - start) / 1e9);
}

static void request_response(const char *to, double seconds, int reconnect)
{
	float *samples = malloc(MOST_SAMPLES * sizeof(*samples));
	double end = now() + seconds;
	size_t count = 0;
	char byte = 'x';
	int fd = reconnect ? -1 : dial(to, first_port + 1);

	while (count < MOST_SAMPLES) {
		double start = now();

		if (start > end)
			break;
		if (reconnect)
			fd = dial(to, first_port + 2);
		if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
			die("exchange");
		if (reconnect) {
			if (read(fd, &byte, 1) != 0)
				die("no end of file");
			close(fd);
		}
		samples[count++] = (now() - start) * 1e6;
	}
	if (!count)
		die("no samples");
	print_latency(samples, count);
}

struct probe {
	char number[16];
	struct sockaddr_storage to;
	socklen_t size;
	double asked, began, next; /* since it was asked for; since this attempt began; not to try before */
	int fd, connected;
};

static void try_again(struct probe *probe)
{
	double age = now() - probe->asked;

	close(probe->fd);
	probe->fd = -1;
	/* To a twentieth of what it takes: trying without pause would take the time from whom it measures. */
	probe->next = now() + (age < 0.02 ? 0.001 : age / 20);
}

static void begin(struct probe *probe)
{
	probe->fd = socket(probe->to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (probe->fd < 0)
		die("socket");
	probe->began = now();
	probe->connected = 0;
	if (connect(probe->fd, (struct sockaddr *)&probe->to, probe->size) && errno != EINPROGRESS)
		try_again(probe);
}

/* 1 when the probe was answered. */
static int advance(struct probe *probe)
{
	char byte = 'x';
	int error = 0;
	socklen_t size = sizeof(error);

	getsockopt(probe->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		return try_again(probe), 0;
	if (!probe->connected) {
		if (write(probe->fd, &byte, 1) == 1)
			probe->connected = 1;
		else
			try_again(probe);
		return 0;
	}
	if (read(probe->fd, &byte, 1) == 1) {
		printf("%s %.6f\n", probe->number, now());
		fflush(stdout);
		close(probe->fd);
		return 1;
	}
	return try_again(probe), 0;
}

static int ask(struct probe *probe, const char *line)
{
	char to[64];
	int port;

	if (sscanf(line, "%15s %63s %d", probe->number, to, &port) != 3)
		return 0;
	probe->size = address(&probe->to, to, port);
	probe->asked = now();
	probe->next = 0;
	probe->fd = -1;
	return 1;
}

static void probe(void)
{
	static struct probe probes[MOST_PROBES];
	static struct pollfd polled[MOST_PROBES + 1];
	static char input[1 << 16];
	size_t filled = 0;
	int count = 0, more = 1;

	puts("ready");
	fflush(stdout);
	while (more || count) {
		polled[0] = (struct pollfd){ .fd = more ? 0 : -1, .events = POLLIN };
		for (int i = 0; i < count; i++) {
			if (probes[i].fd < 0 && now() >= probes[i].next)
				begin(&probes[i]);
			else if (probes[i].fd >= 0 && now() > probes[i].began + attempt_s)
				try_again(&probes[i]);
			polled[i + 1] = (struct pollfd){ .fd = probes[i].fd, .events = probes[i].connected ? POLLIN : POLLOUT };
		}
		if (poll(polled, count + 1, count ? 1 : -1) < 0)
			die("poll");
		for (int i = count - 1; i >= 0; i--)
			if (polled[i + 1].revents && advance(&probes[i]))
				probes[i] = probes[--count];
		if (polled[0].revents) {
			ssize_t n = read(0, input + filled, sizeof(input) - 1 - filled);
			char *line = input, *end;

			more = n > 0;
			filled += more ? n : 0;
			input[filled] = 0;
			for (; (end = strchr(line, '\n')) && count < MOST_PROBES; line = end + 1)
				count += ask(&probes[count], line);
			filled -= line - input;
			memmove(input, line, filled);
		}
	}
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

int main(int argc, char **argv)
{
	for (int option; (option = getopt(argc, argv, "+c:p:")) != -1;) {
		if (option == 'c')
			stay_on(atoi(optarg));
		else if (option == 'p')
			first_port = atoi(optarg);
		else
			return 2;
	}
	argv += optind - 1;
	argc -= optind - 1;
	if (argc == 3 && !strcmp(argv[1], "serve")) {
		static struct sockaddr_storage at[3];
		pthread_t thread;

		for (int i = 0; i < 3; i++) {
			address(&at[i], argv[2], PORT_STREAM + i);
			if (pthread_create(&thread, NULL, serve_port, &at[i]))
				die("thread");
		}
		puts("ready");
		fflush(stdout);
		pause();
	} else if (argc == 4 && !strcmp(argv[1], "stream")) {
		stream(argv[2], atof(argv[3]));
	} else if (argc == 4 && !strcmp(argv[1], "rr")) {
		request_response(argv[2], atof(argv[3]), 0);
	} else if (argc == 4 && !strcmp(argv[1], "crr")) {
		request_response(argv[2], atof(argv[3]), 1);
	} else if (argc == 2 && !strcmp(argv[1], "probe")) {
		probe();
	} else {
		fprintf(stderr, "netbench [-c CPU] [-p PORT] serve ADDRESS | stream|rr|crr ADDRESS SECONDS | probe\n");
		return 2;
	}
	return 0;
}
