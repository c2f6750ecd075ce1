// SPDX-License-Identifier: Apache-2.0
/*
 * The CNI plugin that the container runtime executes for every pod: it passes the request to the agent's unix socket and
 * the answer back (docs/architecture.md 3.4).
 *
 * It decides nothing: what is malformed is judged by the agent. It answers by itself only where the agent cannot: VERSION,
 * and error 11 ("try again later") when the agent is away, so that no pod ever gets half a network. Static, no allocation
 * but one growing buffer, a few system calls: about a millisecond a process.
 */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_PATH "/run/anetd/cni.sock"
#define CURRENT_VERSION "1.1.0"
#define SUPPORTED_VERSIONS "\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
#define GREETING "anetd-cni/1\n"

/* Shorter than the two minutes that kubelet gives the runtime, longer than the agent's own limit for a request. */
#define ANSWER_TIMEOUT_SECONDS 60
#define CONNECT_TIMEOUT_SECONDS 10
#define INPUT_LIMIT (1 << 20)
#define ANSWER_LIMIT (4 << 20)

#define CODE_IO 5
#define CODE_TRY_AGAIN 11

extern char **environ;

struct buffer {
	char *data;
	size_t length;
	size_t capacity;
};

static int append(struct buffer *b, const void *data, size_t length)
{
	if (b->length + length + 1 > b->capacity) {
		size_t capacity = (b->length + length + 1) * 2 + 4096;
		char *grown = realloc(b->data, capacity);

		if (!grown)
			return -1;
		b->data = grown;
		b->capacity = capacity;
	}
	memcpy(b->data + b->length, data, length);
	b->length += length;
	b->data[b->length] = 0;
	return 0;
}

/* Read until the end; the limit keeps a runaway peer from taking the node's memory. */
static int slurp(int fd, struct buffer *b, size_t limit)
{
	char chunk[65536];

	for (;;) {
		ssize_t got = read(fd, chunk, sizeof(chunk));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			return 0;
		if (b->length + got > limit) {
			errno = EMSGSIZE;
			return -1;
		}
		if (append(b, chunk, got)) {
			errno = ENOMEM;
			return -1;
		}
	}
}

static int write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t sent = write(fd, data, length);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -1;
		data += sent;
		length -= sent;
	}
	return 0;
}

/* An error must carry the version that the configuration asked for: found without a JSON parser, else the current one. */
static void requested_version(const struct buffer *input, char *version, size_t size)
{
	const char *at = input->data ? strstr(input->data, "\"cniVersion\"") : NULL;
	size_t n = 0;

	snprintf(version, size, "%s", CURRENT_VERSION);
	if (!at)
		return;
	at += strlen("\"cniVersion\"");
	at += strspn(at, " \t\r\n:");
	if (*at++ != '"')
		return;
	while (n + 1 < size && (isdigit((unsigned char)at[n]) || at[n] == '.'))
		n++;
	if (!n || at[n] != '"')
		return;
	memcpy(version, at, n);
	version[n] = 0;
}

static int fail(const struct buffer *input, int code, const char *message, const char *reason)
{
	char version[16];

	requested_version(input, version, sizeof(version));
	printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", version, code, message, reason);
	return 1;
}

static int connect_agent(void)
{
	/* For tests alone; it gains nobody anything: whoever sets a plugin's environment could execute another program as well. */
	const char *path = getenv("ANETD_CNI_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval connecting = { .tv_sec = CONNECT_TIMEOUT_SECONDS };
	struct timeval answering = { .tv_sec = ANSWER_TIMEOUT_SECONDS };
	int fd;

	if (!path || !*path)
		path = SOCKET_PATH;
	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* The time limit of sending also holds for a connect that waits for room in the agent's queue. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &connecting, sizeof(connecting)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &answering, sizeof(answering)) ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		int reason = errno;

		close(fd);
		errno = reason;
		return -1;
	}
	return fd;
}

static int compose(struct buffer *request, const struct buffer *input)
{
	if (append(request, GREETING, strlen(GREETING)))
		return -1;
	for (char **variable = environ; *variable; variable++)
		if (!strncmp(*variable, "CNI_", 4) && append(request, *variable, strlen(*variable) + 1))
			return -1;
	if (append(request, "", 1))
		return -1;
	return input->length ? append(request, input->data, input->length) : 0;
}

int main(void)
{
	struct buffer input = { 0 }, request = { 0 }, answer = { 0 };
	const char *command = getenv("CNI_COMMAND");
	char *end;
	long status;
	int fd;

	if (command && !strcmp(command, "VERSION")) {
		puts("{\"cniVersion\":\"" CURRENT_VERSION "\",\"supportedVersions\":[" SUPPORTED_VERSIONS "]}");
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	if (slurp(STDIN_FILENO, &input, INPUT_LIMIT))
		return fail(&input, CODE_IO, "cannot read the network configuration from stdin", strerror(errno));
	if (compose(&request, &input))
		return fail(&input, CODE_IO, "cannot compose the request to anetd", strerror(ENOMEM));
	fd = connect_agent();
	if (fd < 0)
		return fail(&input, CODE_TRY_AGAIN, "anetd is not there to serve pods on this node: try again later", strerror(errno));
	/* An agent that has its answer before it has heard everything (a refusal) closes early: EPIPE is no reason not to listen. */
	if ((write_all(fd, request.data, request.length) || shutdown(fd, SHUT_WR)) && errno != EPIPE && errno != ENOTCONN)
		return fail(&input, CODE_TRY_AGAIN, "anetd went away in the middle of the request: try again later", strerror(errno));
	if (slurp(fd, &answer, ANSWER_LIMIT))
		return fail(&input, CODE_TRY_AGAIN, "anetd did not answer: try again later", strerror(errno));
	status = answer.length ? strtol(answer.data, &end, 10) : -1;
	if (!answer.length || end == answer.data || *end != '\n' || status < 0 || status > 255)
		return fail(&input, CODE_TRY_AGAIN, "anetd went away before it had answered: try again later", "the answer is incomplete");
	end++;
	if (write_all(STDOUT_FILENO, end, answer.length - (end - answer.data)))
		return 1;
	return (int)status;
}
