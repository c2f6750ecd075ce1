// The suite's prober, a static program in pods, on nodes and outside: serves its name, and asks many others at once.
//
//   prober serve NAME tcp/PORT udp/PORT ...   answers "NAME CLIENT-ADDRESS"; a TCP connection then echoes what it is sent
//   prober ask                                reads commands from standard input, one a line, until it ends:
//
//     try ID tcp|udp ADDRESS PORT   ask once (UDP: again every quarter of a second)
//     keep ID ADDRESS PORT          as try over TCP, and keep the connection
//     say ID                        send a line over a kept connection, and wait for its echo
//     end ID                        close a kept connection
//     source ADDRESS|-              what is asked from here on comes from this address of ours
//     go MS                         do all since the last go at once, MS milliseconds at most; prints "ID RESULT" for each, then "done"
//
//   RESULT is "= TEXT" (what was answered), "refused", "unreachable", "silent", or "error TEXT".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MANY 16384
#define TEXT 128

static long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void address_text(const struct sockaddr_storage *from, char *text)
{
	const struct sockaddr_in6 *six = (const void *)from;

	if (from->ss_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)from)->sin_addr, text, TEXT);
	else if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
		inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, text, TEXT);
	else
		inet_ntop(AF_INET6, &six->sin6_addr, text, TEXT);
}

static int listener(int type, int port)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET6, type | SOCK_NONBLOCK, 0), one = 1, zero = 0;

	if (fd >= 0) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	} else {
		fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
		six.sin6_family = 0;
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
	if (bind(fd, six.sin6_family ? (void *)&six : (void *)&four, six.sin6_family ? sizeof(six) : sizeof(four)))
		fail("bind");
	if (type == SOCK_STREAM && listen(fd, 1024))
		fail("listen");
	return fd;
}

// From the address that was asked: a host that has several would pick another.
static void answer_datagram(int fd, const char *name)
{
	struct sockaddr_storage from;
	char data[1024], peer[TEXT] = "", answer[2 * TEXT], control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	struct iovec part = {data, sizeof(data)};
	struct msghdr message = {&from, sizeof(from), &part, 1, control, sizeof(control), 0};

	if (recvmsg(fd, &message, 0) < 0)
		return;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
			((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_ifindex = 0;
	address_text(&from, peer);
	part = (struct iovec){answer, (size_t)snprintf(answer, sizeof(answer), "%s %s\n", name, peer)};
	sendmsg(fd, &message, 0);
}

_Noreturn static void serve(const char *name, char **ports, int count)
{
	static struct pollfd polls[MANY];
	int used = 0;

	for (int i = 0; i < count; i++)
		polls[used++] = (struct pollfd){listener(*ports[i] == 'u' ? SOCK_DGRAM : SOCK_STREAM, atoi(ports[i] + 4)), POLLIN, 0};
	for (;;) {
		if (poll(polls, used, -1) < 0 && errno != EINTR)
			fail("poll");
		for (int i = 0; i < used; i++) {
			struct sockaddr_storage from;
			socklen_t size = sizeof(from);
			char data[1024], peer[TEXT] = "", answer[2 * TEXT];
			int fd = polls[i].fd;

			if (!polls[i].revents)
				continue;
			if (i < count && *ports[i] == 'u') {
				answer_datagram(fd, name);
			} else if (i < count) {
				int got = accept4(fd, (void *)&from, &size, SOCK_NONBLOCK);

				if (got < 0 || used == MANY) {
					close(got);
					continue;
				}
				address_text(&from, peer);
				send(got, answer, snprintf(answer, sizeof(answer), "%s %s\n", name, peer), MSG_NOSIGNAL);
				polls[used++] = (struct pollfd){got, POLLIN, 0};
			} else {
				ssize_t length = recv(fd, data, sizeof(data), 0);

				if (length > 0)
					send(fd, data, length, MSG_NOSIGNAL);
				if (length == 0 || (length < 0 && errno != EAGAIN)) {
					close(fd);
					polls[i--] = polls[--used];
				}
			}
		}
	}
}

enum kind { TRY_TCP, TRY_UDP, KEEP, SAY };

struct probe {
	enum kind kind;
	int fd, connected, done;
	long long asked;
	char id[64], result[2 * TEXT];
};

struct kept {
	int fd;
	char id[64];
};

static struct probe probes[MANY];
static struct kept keeping[256];
static int waiting, kept_count;
static char source[TEXT];

static void finish(struct probe *p, const char *result)
{
	snprintf(p->result, sizeof(p->result), "%s", result);
	p->done = 1;
}

static void failed(struct probe *p, int error)
{
	const char *what = error == ECONNREFUSED ? "refused" : error == EHOSTUNREACH || error == ENETUNREACH ? "unreachable" : NULL;
	char text[TEXT];

	// A datagram may be answered yet: the next one is on its way.
	if (p->kind == TRY_UDP && what) {
		snprintf(p->result, sizeof(p->result), "%s", what);
		return;
	}
	snprintf(text, sizeof(text), "error %s", strerror(error));
	finish(p, what ? what : text);
}

static struct kept *find_kept(const char *id)
{
	for (int i = 0; i < kept_count; i++)
		if (!strcmp(keeping[i].id, id))
			return &keeping[i];
	return NULL;
}

static socklen_t parse(const char *text, int port, struct sockaddr_storage *address)
{
	struct sockaddr_in6 *six = (void *)address;
	struct sockaddr_in *four = (void *)address;

	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		return sizeof(*six);
	}
	memset(address, 0, sizeof(*address));
	four->sin_family = AF_INET;
	four->sin_port = htons(port);
	return inet_pton(AF_INET, text, &four->sin_addr) == 1 ? sizeof(*four) : 0;
}

static void begin(struct probe *p, const char *text, int port)
{
	struct sockaddr_storage address, own;
	socklen_t size = parse(text, port, &address), own_size = parse(source, 0, &own);

	if (!size) {
		finish(p, "error no address");
		return;
	}
	p->fd = socket(address.ss_family, (p->kind == TRY_UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
	if (p->fd < 0 || (own_size && bind(p->fd, (void *)&own, own_size)) ||
	    (connect(p->fd, (void *)&address, size) && errno != EINPROGRESS))
		failed(p, errno);
}

static void progress(struct probe *p, int ready, long long now)
{
	char data[TEXT];
	ssize_t length;

	if (p->kind == TRY_UDP && now - p->asked >= 250) {
		p->asked = now;
		if (send(p->fd, "?", 1, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
			failed(p, errno);
	}
	if (!ready || p->done)
		return;
	length = recv(p->fd, data, sizeof(data) - 1, 0);
	if (length > 0) {
		char text[2 * TEXT];

		data[length] = 0;
		data[strcspn(data, "\n")] = 0;
		snprintf(text, sizeof(text), "= %s", data);
		finish(p, text);
	} else if (length == 0 && p->kind != TRY_UDP) {
		finish(p, "error closed");
	} else if (length < 0 && errno != EAGAIN) {
		failed(p, errno);
	}
}

static void go(int milliseconds)
{
	static struct pollfd polls[MANY];
	long long end = now_ms() + milliseconds;

	for (;;) {
		long long now = now_ms();
		int open = 0;

		for (int i = 0; i < waiting; i++) {
			struct probe *p = &probes[i];

			if (!p->done)
				progress(p, polls[i].revents, now);
			polls[i] = (struct pollfd){p->done ? -1 : p->fd, POLLIN, 0};
			open += !p->done;
		}
		if (!open || now >= end)
			break;
		if (poll(polls, waiting, end - now < 50 ? (int)(end - now) : 50) < 0 && errno != EINTR)
			fail("poll");
	}
	for (int i = 0; i < waiting; i++) {
		struct probe *p = &probes[i];
		struct linger at_once = {1, 0};

		printf("%s %s\n", p->id, p->result[0] ? p->result : "silent");
		if (p->kind == KEEP && p->result[0] == '=' && kept_count < 256) {
			snprintf(keeping[kept_count].id, sizeof(keeping[0].id), "%s", p->id);
			keeping[kept_count++].fd = p->fd;
		} else if (p->kind != SAY && p->fd >= 0) {
			// Without a farewell that a policy could hold up.
			setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
			close(p->fd);
		}
		polls[i].revents = 0;
	}
	waiting = 0;
	printf("done\n");
	fflush(stdout);
}

static int ask(void)
{
	char line[512], word[16], id[64], proto[16], address[TEXT];
	int port;

	while (fgets(line, sizeof(line), stdin)) {
		struct probe *p = &probes[waiting];
		struct kept *k;

		if (sscanf(line, "%15s", word) != 1)
			continue;
		if (!strcmp(word, "go")) {
			go(atoi(line + 3));
			continue;
		}
		if (waiting == MANY) {
			fprintf(stderr, "too many at once\n");
			return 1;
		}
		memset(p, 0, sizeof(*p));
		p->fd = -1;
		if (sscanf(line, "try %63s %15s %127s %d", id, proto, address, &port) == 4) {
			p->kind = *proto == 'u' ? TRY_UDP : TRY_TCP;
			snprintf(p->id, sizeof(p->id), "%s", id);
			begin(p, address, port);
			waiting++;
		} else if (sscanf(line, "keep %63s %127s %d", id, address, &port) == 3) {
			p->kind = KEEP;
			snprintf(p->id, sizeof(p->id), "%s", id);
			begin(p, address, port);
			waiting++;
		} else if (sscanf(line, "say %63s", id) == 1) {
			char drain[1024];

			p->kind = SAY;
			snprintf(p->id, sizeof(p->id), "%s", id);
			k = find_kept(id);
			p->fd = k ? k->fd : -1;
			while (k && recv(p->fd, drain, sizeof(drain), 0) > 0)
				;
			if (!k)
				finish(p, "error not kept");
			else if (send(p->fd, "again\n", 6, MSG_NOSIGNAL) < 0)
				failed(p, errno);
			waiting++;
		} else if (sscanf(line, "source %127s", source) == 1) {
			continue;
		} else if (sscanf(line, "end %63s", id) == 1) {
			k = find_kept(id);
			if (k) {
				close(k->fd);
				*k = keeping[--kept_count];
			}
		} else {
			fprintf(stderr, "not understood: %s", line);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct rlimit files = {MANY, MANY};

	setrlimit(RLIMIT_NOFILE, &files);
	if (argc >= 3 && !strcmp(argv[1], "serve"))
		serve(argv[2], argv + 3, argc - 3);
	if (argc == 2 && !strcmp(argv[1], "ask"))
		return ask();
	fprintf(stderr, "prober serve NAME PROTOCOL/PORT... | prober ask\n");
	return 2;
}
