// SPDX-License-Identifier: Apache-2.0
/*
 * member-init: makes the namespaces of one cluster member and is PID 1 in them.
 *
 *   member-init DESCRIPTION
 *
 * DESCRIPTION is a file of lines, fields separated by tabs, read once and worked off from top to bottom:
 *
 *   hostname NAME              the UTS name
 *   cgroup DIR                 join DIR before the cgroup namespace is made: it becomes that hierarchy's root inside
 *   leaf DIR                   then move on to DIR (below it), so that the root has no process of its own
 *   root DIR                   the directory that becomes /
 *   dir PATH MODE              make a directory below the root (with its parents)
 *   symlink TARGET PATH
 *   bind SOURCE PATH ro|rw     SOURCE on the host (with what is mounted below it), PATH below the root
 *   mount TYPE PATH OPTIONS
 *   program NAME               what follows until the next one is about this program
 *   log PATH                   its stdout and stderr, appended to (inside)
 *   env NAME=VALUE
 *   arg TEXT                   the first one is the executable (inside)
 *   await ADDRESS PORT         do not start it before something accepts there
 *
 * The caller talks to it through two pipes. stdout: "pid N", then "ready" once every mount is made, or "error TEXT".
 * stdin: one byte starts the programs; end of file instead ends the member. So a caller that dies half way leaves
 * nothing behind: the namespaces have no name, and go with their last process.
 *
 * As PID 1 it restarts programs that end (with a growing delay), reaps every orphan, keeps /run/member/status up to
 * date (a line a program: name, pid, restarts, last wait status), and on SIGTERM ends the programs in reverse
 * order, each with a grace period. When it exits the kernel kills all that is left in the PID namespace.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

#define NAMESPACES (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWCGROUP)
#define MAX_PROGRAMS 16
#define MAX_WORDS 128
#define TICK_MS 100
#define FIRST_DELAY_MS 200
#define LONGEST_DELAY_MS 10000
#define STEADY_MS 30000 /* a program that ran this long starts again without having to wait for it */
#define GRACE_MS 4000
#define STATUS_DIR "/run/member"

struct program {
	char *name, *log;
	char *args[MAX_WORDS], *env[MAX_WORDS];
	int nargs, nenv;
	struct sockaddr_storage await;
	socklen_t await_len;
	pid_t pid;
	int restarts, last_status;
	long started_ms, start_at_ms, delay_ms;
};

static struct program programs[MAX_PROGRAMS];
static int nprograms;
static char *base; /* the new root, as the host names it */
static bool reporting = true;

/* One write a line, so that a reader never sees half of one. */
static void print_line(int fd, const char *prefix, const char *format, va_list arguments, const char *suffix)
{
	char text[PATH_MAX + 512];
	int length = snprintf(text, 64, "%s ", prefix);

	length += vsnprintf(text + length, PATH_MAX, format, arguments);
	if (length > PATH_MAX)
		length = PATH_MAX;
	length += snprintf(text + length, 256, "%s\n", suffix);
	if (write(fd, text, length) < 0)
		return; /* nobody listens, and there is nobody else to tell */
}

static void die(const char *format, ...)
{
	char reason[128];
	va_list arguments;

	snprintf(reason, sizeof(reason), ": %s", strerror(errno));
	va_start(arguments, format);
	print_line(reporting ? STDOUT_FILENO : STDERR_FILENO, "error", format, arguments, reason);
	va_end(arguments);
	_exit(1);
}

static void say(const char *format, ...)
{
	char stamp[32];
	time_t now = time(NULL);
	struct tm tm;
	va_list arguments;

	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	va_start(arguments, format);
	print_line(STDERR_FILENO, stamp, format, arguments, "");
	va_end(arguments);
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- the description ---- */

static char *slurp(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *text;

	if (fd < 0 || fstat(fd, &st))
		die("read %s", path);
	text = malloc(st.st_size + 1);
	if (!text || read(fd, text, st.st_size) != st.st_size)
		die("read %s", path);
	text[st.st_size] = 0;
	close(fd);
	return text;
}

static const char *below_root(const char *path)
{
	static char full[2][PATH_MAX];
	static int turn;

	turn = !turn;
	if (!base)
		base = "";
	if ((size_t)snprintf(full[turn], PATH_MAX, "%s%s", base, path) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		die("%s", path);
	}
	return full[turn];
}

static void make_parents(const char *path)
{
	char partial[PATH_MAX];

	snprintf(partial, sizeof(partial), "%s", path);
	for (char *p = partial + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(partial, 0755) && errno != EEXIST)
			die("mkdir %s", partial);
		*p = '/';
	}
}

static void make_dirs(const char *path, mode_t mode)
{
	make_parents(path);
	if (mkdir(path, mode)) {
		if (errno != EEXIST)
			die("mkdir %s", path);
	} else if (chmod(path, mode)) { /* the umask had its say */
		die("chmod %s", path);
	}
}

static void join_cgroup(const char *dir)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die("join %s", dir);
	close(fd);
}

static void bind_mount(const char *source, const char *path, bool read_only)
{
	const char *target = below_root(path);
	struct stat st;

	if (stat(source, &st))
		die("bind %s", source);
	if (S_ISDIR(st.st_mode)) {
		make_dirs(target, 0755);
	} else {
		int fd;

		make_parents(target);
		fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0 && access(target, F_OK))
			die("create %s", target);
		if (fd >= 0)
			close(fd);
	}
	if (mount(source, target, NULL, MS_BIND | MS_REC, NULL))
		die("bind %s to %s", source, target);
	if (read_only && mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL))
		die("make %s read-only", target);
}

static void fresh_mount(const char *type, const char *path, char *options)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} known[] = {{"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC}, {"ro", MS_RDONLY}};
	const char *target = below_root(path);
	unsigned long flags = 0;
	char data[512] = "";

	for (char *word = strtok(options, ","); word; word = strtok(NULL, ",")) {
		bool taken = false;

		for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
			if (!strcmp(word, known[i].name)) {
				flags |= known[i].flag;
				taken = true;
			}
		if (!taken)
			snprintf(data + strlen(data), sizeof(data) - strlen(data), "%s%s", *data ? "," : "", word);
	}
	if (access(target, F_OK))
		make_dirs(target, 0755);
	if (mount(type, target, type, flags, data))
		die("mount %s on %s", type, path);
}

static void parse_await(struct program *program, const char *address, const char *port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&program->await;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&program->await;

	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(atoi(port));
		program->await_len = sizeof(*v4);
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(atoi(port));
		program->await_len = sizeof(*v6);
	} else {
		errno = EINVAL;
		die("await %s", address);
	}
}

enum phase { BEFORE_CLONE, INSIDE };

/* One line of the description. The description is walked twice: what must be done before the namespaces exist, then the rest. */
static void work_off(enum phase phase, char **f, int n)
{
	static const struct {
		const char *keyword;
		int fields;
		enum phase phase;
	} lines[] = {
		{"cgroup", 2, BEFORE_CLONE}, {"leaf", 2, INSIDE}, {"hostname", 2, INSIDE}, {"root", 2, INSIDE},
		{"dir", 3, INSIDE}, {"symlink", 3, INSIDE}, {"bind", 4, INSIDE}, {"mount", 4, INSIDE},
		{"program", 2, INSIDE}, {"log", 2, INSIDE}, {"env", 2, INSIDE}, {"arg", 2, INSIDE}, {"await", 3, INSIDE},
	};
	struct program *program = nprograms ? &programs[nprograms - 1] : NULL;
	const char *word = f[0];
	size_t i;

	for (i = 0; i < sizeof(lines) / sizeof(*lines) && strcmp(lines[i].keyword, word); i++)
		;
	errno = EINVAL;
	if (i == sizeof(lines) / sizeof(*lines) || n != lines[i].fields)
		die("description: line beginning with '%s'", word);
	if (lines[i].phase != phase)
		return;

	if (!strcmp(word, "cgroup") || !strcmp(word, "leaf")) {
		join_cgroup(f[1]);
	} else if (!strcmp(word, "hostname")) {
		if (sethostname(f[1], strlen(f[1])))
			die("hostname %s", f[1]);
	} else if (!strcmp(word, "root")) {
		base = f[1];
		if (mount(base, base, NULL, MS_BIND, NULL))
			die("bind %s", base);
	} else if (!strcmp(word, "dir")) {
		make_dirs(below_root(f[1]), strtol(f[2], NULL, 8));
	} else if (!strcmp(word, "symlink")) {
		if (symlink(f[1], below_root(f[2])) && errno != EEXIST)
			die("symlink %s", f[2]);
	} else if (!strcmp(word, "bind")) {
		bind_mount(f[1], f[2], !strcmp(f[3], "ro"));
	} else if (!strcmp(word, "mount")) {
		fresh_mount(f[1], f[2], f[3]);
	} else if (!strcmp(word, "program")) {
		if (nprograms == MAX_PROGRAMS)
			die("more than %d programs", MAX_PROGRAMS);
		programs[nprograms++].name = f[1];
	} else if (!program) {
		die("description: '%s' before any program", word);
	} else if (!strcmp(word, "log")) {
		program->log = f[1];
	} else if (!strcmp(word, "await")) {
		parse_await(program, f[1], f[2]);
	} else if (program->nargs == MAX_WORDS - 1 || program->nenv == MAX_WORDS - 1) {
		die("%s: more than %d words", program->name, MAX_WORDS - 1);
	} else if (!strcmp(word, "arg")) {
		program->args[program->nargs++] = f[1];
	} else {
		program->env[program->nenv++] = f[1];
	}
}

static void walk(const char *description, enum phase phase)
{
	char *text = strdup(description); /* kept: the programs point into it */

	for (char *line = text, *next; line && *line; line = next) {
		char *fields[4];
		int n = 0;

		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		for (char *field = line; field && n < 4; n++) {
			fields[n] = field;
			field = strchr(field, '\t');
			if (field)
				*field++ = 0;
		}
		if (*line)
			work_off(phase, fields, n);
	}
}

static void enter_root(void)
{
	if (!base) {
		errno = EINVAL;
		die("description: no root");
	}
	if (chdir(base) || syscall(SYS_pivot_root, ".", "."))
		die("pivot_root to %s", base);
	/* Both roots are now stacked on /; the upper one is the host's. */
	if (umount2(".", MNT_DETACH) || chdir("/"))
		die("leave the host's mounts");
	/* A propagation group of its own: what a pod mounts with Bidirectional is seen in the member, never on the host. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL))
		die("share the member's mounts");
}

/* ---- the programs ---- */

static void write_status(void)
{
	FILE *file = fopen(STATUS_DIR "/status.new", "we");

	if (!file)
		return; /* a full /run must not stop a member */
	for (int i = 0; i < nprograms; i++)
		fprintf(file, "%s\t%d\t%d\t%d\n", programs[i].name, programs[i].pid, programs[i].restarts, programs[i].last_status);
	if (fclose(file) == 0)
		rename(STATUS_DIR "/status.new", STATUS_DIR "/status");
}

static bool accepts(const struct program *program)
{
	int fd, error = 0;
	socklen_t length = sizeof(error);
	struct pollfd poll_fd = {.events = POLLOUT};
	bool connected;

	if (!program->await_len)
		return true;
	fd = socket(program->await.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return true;
	connected = connect(fd, (const struct sockaddr *)&program->await, program->await_len) == 0;
	if (!connected && errno == EINPROGRESS) {
		poll_fd.fd = fd;
		connected = poll(&poll_fd, 1, TICK_MS / 2) == 1 && !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) && !error;
	}
	close(fd);
	return connected;
}

static void start(struct program *program)
{
	sigset_t none;

	program->started_ms = now_ms();
	program->pid = fork();
	if (program->pid < 0) {
		program->pid = 0;
		say("%s: fork: %s", program->name, strerror(errno));
		program->start_at_ms = now_ms() + LONGEST_DELAY_MS;
		return;
	}
	if (program->pid > 0)
		return;

	int log = open(program->log ? program->log : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0600);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
		_exit(126);
	close_range(3, ~0U, 0);
	execve(program->args[0], program->args, program->env);
	dprintf(STDERR_FILENO, "member-init: %s: %s\n", program->args[0], strerror(errno));
	_exit(127);
}

static void start_due(void)
{
	bool changed = false;

	for (int i = 0; i < nprograms; i++) {
		struct program *program = &programs[i];

		if (program->pid || now_ms() < program->start_at_ms || !accepts(program))
			continue;
		start(program);
		changed = true;
	}
	if (changed)
		write_status();
}

static void ended(struct program *program, int status)
{
	long ran = now_ms() - program->started_ms;

	program->pid = 0;
	program->last_status = status;
	program->restarts++;
	program->delay_ms = ran >= STEADY_MS || !program->delay_ms ? FIRST_DELAY_MS : program->delay_ms * 2;
	if (program->delay_ms > LONGEST_DELAY_MS)
		program->delay_ms = LONGEST_DELAY_MS;
	program->start_at_ms = now_ms() + program->delay_ms;
	if (WIFSIGNALED(status))
		say("%s was killed by signal %d after %ld ms; again in %ld ms", program->name, WTERMSIG(status), ran, program->delay_ms);
	else
		say("%s ended with status %d after %ld ms; again in %ld ms", program->name, WEXITSTATUS(status), ran, program->delay_ms);
}

static bool reap(void)
{
	bool changed = false;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < nprograms; i++)
			if (programs[i].pid == pid) {
				ended(&programs[i], status);
				changed = true;
			}
	return changed;
}

static void stop_programs(const sigset_t *signals)
{
	for (int i = nprograms - 1; i >= 0; i--) {
		long give_up = now_ms() + GRACE_MS;

		if (!programs[i].pid)
			continue;
		kill(programs[i].pid, SIGTERM);
		while (reap(), programs[i].pid) {
			struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};

			if (now_ms() >= give_up) {
				say("%s does not end: killed", programs[i].name);
				kill(programs[i].pid, SIGKILL);
				break;
			}
			sigtimedwait(signals, NULL, &tick);
		}
	}
}

static void supervise(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	for (;;) {
		struct timespec tick = {.tv_sec = 1};
		int signal;

		start_due();
		for (int i = 0; i < nprograms; i++)
			if (!programs[i].pid)
				tick = (struct timespec){.tv_nsec = TICK_MS * 1000000L};
		signal = sigtimedwait(&signals, NULL, &tick);
		if (signal == SIGTERM || signal == SIGINT) {
			say("asked to end");
			stop_programs(&signals);
			_exit(0);
		}
		if (reap())
			write_status();
	}
}

/* ---- from launcher to PID 1 ---- */

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void detach_output(void)
{
	int null = open("/dev/null", O_RDWR), log = open("/var/log/member-init.log", O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (null < 0 || log < 0)
		die("open /var/log/member-init.log");
	reporting = false;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	close_range(3, ~0U, 0);
}

static void become_init(const char *description)
{
	char go;

	/* First of all, so that no mount below reaches the host. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("make mounts private");
	walk(description, INSIDE);
	enter_root();
	make_dirs(STATUS_DIR, 0755);
	dprintf(STDOUT_FILENO, "ready\n");
	if (read(STDIN_FILENO, &go, 1) != 1)
		_exit(1);
	detach_output();
	raise_file_limit();
	supervise();
}

int main(int argc, char **argv)
{
	char *description;
	pid_t pid;

	if (argc < 2) {
		fprintf(stderr, "usage: member-init DESCRIPTION\n");
		return 2;
	}
	close_range(3, ~0U, 0);
	umask(022);
	signal(SIGPIPE, SIG_IGN);
	setsid();
	description = slurp(argv[1]);
	walk(description, BEFORE_CLONE);
	if (unshare(NAMESPACES))
		die("make namespaces");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		become_init(description);
	dprintf(STDOUT_FILENO, "pid %d\n", pid);
	return 0;
}
