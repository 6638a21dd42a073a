/*
 * A load client for event streams: one thread, one epoll, as little work a byte as there can be.
 *
 * Commands come as lines on stdin, answers go as lines to stdout:
 *   open COUNT PORT PATH      opens so many connections, each with one GET     -> open        (when each has got a byte)
 *   want EVENTS               until each has got so many more events           -> done NANOSECONDS CPU_MICROSECONDS
 *   dial COUNT PORT PATH      the same without a GET                           -> open
 *   ask EVENTS                sends the GETs, until each has got so many events -> done NANOSECONDS CPU_MICROSECONDS
 *   replies COUNT EVENTS      asks anew on each connection when a reply is whole, until there were so many replies, each of
 *                             so many events                                   -> done NANOSECONDS CPU_MICROSECONDS
 *   stream BYTES              asks, and reads so many bytes of all bodies        -> done NANOSECONDS CPU_MICROSECONDS
 *   acknowledge PORT          from now on a byte is sent there whenever each connection has got one more event
 *   latency EVENTS            as want; events carry t=NANOSECONDS of the monotonic clock -> done NANOSECONDS CPU_MICROSECONDS P50 P99
 *   pause COUNT               does not read from the first so many any more    -> paused
 *   tally                     bytes that have come since the last command      -> tally BYTES
 *   close                     closes all                                       -> closed
 * Whatever breaks a connection ends the process with an error.
 *
 * An event is a blank line: LF LF. The framing of HTTP has CR LF only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
  int fd;
  uint32_t events;     /* since the last command */
  char last;           /* the byte before */
  uint8_t has_head;
  uint8_t is_chunked;
  uint8_t end;         /* how much of CR LF 0 CR LF CR LF was seen */
  int64_t left;        /* bytes of a body with a length */
  int head_length;
  char head[2048];
} connection;

static connection *connections;
static int count, epoll_fd, acknowledge_fd = -1, paused;
static char request[1024];
static int request_length;

enum { idle, opening, want, replies, bytes, latency } mode = idle;
static int64_t goal, done, asked, total_bytes, started;
static uint32_t events_goal;
static int waiting;      /* connections that have not got what they have to */
static uint32_t round_goal = 1;
static int round_waiting;
static uint32_t *samples;
static int64_t sample_count, sample_size;
static char buffer[1 << 18];

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t cpu(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000LL + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static int64_t started_cpu;

static void fail(const char *what) {
  fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void say(const char *text) {
  printf("%s\n", text);
  fflush(stdout);
}

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static void finish(void) {
  int64_t time = now() - started, used = cpu() - started_cpu;
  if (mode == latency) {
    qsort(samples, sample_count, sizeof *samples, compare);
    printf("done %lld %lld %u %u\n", (long long)time, (long long)used, samples[sample_count / 2], samples[sample_count * 99 / 100]);
  } else {
    printf("done %lld %lld\n", (long long)time, (long long)used);
  }
  fflush(stdout);
  mode = idle;
}

static int dial(int port, int source) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct sockaddr_in address = { .sin_family = AF_INET };
  if (fd < 0) fail("socket");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  /* One address has 28,000 ports. */
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

static void ask(connection *c) {
  c->has_head = c->is_chunked = c->end = 0;
  c->left = -1;
  c->head_length = 0;
  c->last = 0;
  if (write(c->fd, request, request_length) != request_length) fail("write");
}

/* Returns the number of bytes that belong to the head. */
static ssize_t take_head(connection *c, const char *data, ssize_t length) {
  int before = c->head_length;
  ssize_t room = sizeof c->head - 1 - before, taken = length < room ? length : room;
  memcpy(c->head + before, data, taken);
  c->head_length += taken;
  c->head[c->head_length] = 0;
  char *end = strstr(c->head, "\r\n\r\n");
  if (end == NULL) {
    if (c->head_length == sizeof c->head - 1) { errno = 0; fail("head too long"); }
    return length;
  }
  if (strncmp(c->head, "HTTP/1.1 200", 12) != 0) { fprintf(stderr, "client: %.60s\n", c->head); exit(1); }
  char *field = strcasestr(c->head, "\ncontent-length:");
  if (field != NULL && field < end) c->left = atoll(field + 16);
  c->is_chunked = strcasestr(c->head, "\ntransfer-encoding: chunked") != NULL;
  c->has_head = 1;
  /* The blank line after the head is what comes before the first chunk. */
  c->end = 2;
  return end + 4 - c->head - before;
}

static void got_event(connection *c) {
  c->events++;
  if ((mode == want || mode == latency) && c->events == events_goal) waiting--;
  if (acknowledge_fd >= 0 && c->events == round_goal && --round_waiting == 0) {
    round_goal++;
    round_waiting = count - paused;
    if (write(acknowledge_fd, ".", 1) != 1) fail("acknowledge");
  }
}

static void count_events(connection *c, const char *data, ssize_t length) {
  const char *at = data, *end = data + length;
  if (length > 0 && c->last == '\n' && *at == '\n') got_event(c);
  while ((at = memchr(at, '\n', end - at)) != NULL) {
    if (++at == end) break;
    if (*at == '\n') {
      got_event(c);
      if (++at == end) { c->last = 0; return; }
    }
  }
  if (length > 0) c->last = end[-1];
}

/* True when a body of a keep-alive connection is over. */
static int is_over(connection *c, const char *data, ssize_t length) {
  if (!c->is_chunked) return c->left >= 0 && (c->left -= length) <= 0;
  static const char pattern[] = "\r\n0\r\n\r\n";
  for (ssize_t i = length > 16 ? length - 16 : 0; i < length; i++) {
    if (data[i] == pattern[c->end]) c->end++;
    else c->end = data[i] == '\r' ? 1 : 0;
    if (c->end == 7) return 1;
  }
  return 0;
}

static void take(connection *c, const char *data, ssize_t length) {
  if (!c->has_head) {
    ssize_t head = take_head(c, data, length);
    data += head;
    length -= head;
    if (!c->has_head) return;
  }
  if (mode == latency) {
    const char *at = data;
    int64_t time = now();
    while ((at = memmem(at, data + length - at, "t=", 2)) != NULL) {
      int64_t sent = atoll(at += 2);
      if (sample_count == sample_size) samples = realloc(samples, (sample_size = 2 * sample_size + 65536) * sizeof *samples);
      samples[sample_count++] = (time - sent) / 1000;
    }
  }
  if (mode == bytes) return;
  count_events(c, data, length);
  if (mode == replies && is_over(c, data, length)) {
    /* Some libraries begin with a block of their own. */
    if (c->events < events_goal || c->events > events_goal + 2) { fprintf(stderr, "client: a reply of %u events, not %u\n", c->events, events_goal); exit(1); }
    done++;
    c->events = 0;
    if (asked < goal) { asked++; ask(c); }
  }
}

static void read_all(connection *c) {
  ssize_t length = read(c->fd, buffer, sizeof buffer - 1);
  if (length < 0 && errno == EAGAIN) return;
  if (length <= 0) {
    if (mode == replies && done >= goal) return;
    fail(length == 0 ? "the server has closed a connection" : "read");
  }
  buffer[length] = 0;
  total_bytes += length;
  if (mode == opening && c->head_length == 0) waiting--;
  take(c, buffer, length);
}

static void check(void) {
  if (mode == opening && waiting == 0) { mode = idle; say("open"); }
  else if ((mode == want || mode == latency) && waiting == 0) finish();
  else if (mode == replies && done >= goal) finish();
  else if (mode == bytes && total_bytes >= goal) finish();
}

static void start(int next) {
  for (int i = 0; i < count; i++) connections[i].events = 0;
  waiting = count - paused;
  started = now();
  started_cpu = cpu();
  done = total_bytes = sample_count = 0;
  round_goal = 1;
  round_waiting = count - paused;
  mode = next;
}

static void command(char *line) {
  char word[32] = "", path[256];
  int a = 0, port = 0;
  long long b = 0;
  sscanf(line, "%31s", word);
  if (strcmp(word, "open") == 0 || strcmp(word, "dial") == 0) {
    sscanf(line, "%*s %d %d %255s", &count, &port, path);
    request_length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n", path);
    connections = calloc(count, sizeof *connections);
    paused = 0;
    mode = opening;
    waiting = word[0] == 'o' ? count : 0;
    for (int i = 0; i < count; i++) {
      connection *c = &connections[i];
      c->fd = dial(port, i / 20000);
      struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
      epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
      if (word[0] == 'd') continue;
      ask(c);
      /* No more than the backlog of a server takes. */
      if (i % 100 == 99) while (waiting > count - i - 1) {
        struct epoll_event events[128];
        int n = epoll_wait(epoll_fd, events, 128, 5000);
        if (n == 0) { errno = 0; fail("no answer"); }
        for (int k = 0; k < n; k++) if (events[k].data.ptr != NULL) read_all(events[k].data.ptr);
      }
    }
  } else if (strcmp(word, "want") == 0) {
    sscanf(line, "want %u", &events_goal);
    start(want);
  } else if (strcmp(word, "ask") == 0) {
    sscanf(line, "ask %u", &events_goal);
    start(want);
    for (int i = 0; i < count; i++) ask(&connections[i]);
  } else if (strcmp(word, "latency") == 0) {
    sscanf(line, "latency %u", &events_goal);
    start(latency);
  } else if (strcmp(word, "replies") == 0) {
    sscanf(line, "replies %lld %u", &b, &events_goal);
    goal = b;
    start(replies);
    for (asked = 0; asked < count && asked < goal; asked++) ask(&connections[asked]);
  } else if (strcmp(word, "stream") == 0) {
    sscanf(line, "stream %lld", &b);
    goal = b;
    start(bytes);
    for (int i = 0; i < count; i++) ask(&connections[i]);
  } else if (strcmp(word, "acknowledge") == 0) {
    sscanf(line, "acknowledge %d", &port);
    if (acknowledge_fd >= 0) close(acknowledge_fd);
    acknowledge_fd = dial(port, 0);
  } else if (strcmp(word, "pause") == 0) {
    sscanf(line, "pause %d", &a);
    for (int i = 0; i < a; i++) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connections[i].fd, NULL);
    paused = a;
    say("paused");
  } else if (strcmp(word, "tally") == 0) {
    printf("tally %lld\n", (long long)total_bytes);
    fflush(stdout);
    total_bytes = 0;
  } else if (strcmp(word, "close") == 0) {
    struct linger linger = { 1, 0 };
    for (int i = 0; i < count; i++) {
      /* No port is to wait for a minute. */
      setsockopt(connections[i].fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
      close(connections[i].fd);
    }
    if (acknowledge_fd >= 0) close(acknowledge_fd);
    acknowledge_fd = -1;
    free(connections);
    connections = NULL;
    count = 0;
    mode = idle;
    say("closed");
  } else {
    fprintf(stderr, "client: unknown command %s\n", line);
    exit(1);
  }
}

int main(void) {
  static char input[4096];
  int length = 0;
  struct epoll_event stdin_event = { .events = EPOLLIN, .data.ptr = NULL };
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  epoll_fd = epoll_create1(0);
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &stdin_event);
  for (;;) {
    struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, -1);
    for (int i = 0; i < n; i++) {
      if (events[i].data.ptr != NULL) {
        if (connections != NULL) read_all(events[i].data.ptr);
        continue;
      }
      ssize_t got = read(0, input + length, sizeof input - 1 - length);
      if (got <= 0) return 0;
      input[length += got] = 0;
      char *line = input, *end;
      while ((end = strchr(line, '\n')) != NULL) {
        *end = 0;
        command(line);
        line = end + 1;
      }
      length -= line - input;
      memmove(input, line, length);
      /* What was told of with this one may be of connections that are gone. */
      break;
    }
    check();
  }
}
