// SPDX-License-Identifier: Apache-2.0
/*
 * What a path through the network costs, in three shapes: one TCP stream, request and response on one connection, and
 * connect-request-close. One process serves, another asks and prints one JSON line.
 *
 *   netbench serve ADDRESS
 *   netbench stream|rr|crr ADDRESS SECONDS
 *
 * The server closes first in crr, so that TIME_WAIT collects there and the client's ports stay free.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT_STREAM = 7001, PORT_RR = 7002, PORT_CRR = 7003, CHUNK = 128 * 1024, MOST_SAMPLES = 1 << 21 };

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
	int fd = dial(to, PORT_STREAM);
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
	int fd = reconnect ? -1 : dial(to, PORT_RR);

	while (count < MOST_SAMPLES) {
		double start = now();

		if (start > end)
			break;
		if (reconnect)
			fd = dial(to, PORT_CRR);
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

int main(int argc, char **argv)
{
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
	} else {
		fprintf(stderr, "netbench serve ADDRESS | stream|rr|crr ADDRESS SECONDS\n");
		return 2;
	}
	return 0;
}
