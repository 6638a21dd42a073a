/*
 * What the kernel allows: a server that does nothing but write one buffer to all connections.
 * It prints its port. A line EVENTS on stdin publishes so many, one after the other.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache, no-transform\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:\n\n\r\n";
static int clients[65536], count;

static void publish(int n) {
  char data[101], block[256], chunk[300];
  memset(data, 'x', 100);
  data[100] = 0;
  int length = snprintf(block, sizeof block, "event: tick\nid: %d-0123456789ab.abcdef\ndata: %s\n\n", n, data);
  length = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", length, block);
  for (int i = 0; i < count; i++) {
    if (clients[i] >= 0 && write(clients[i], chunk, length) != length) { fprintf(stderr, "server: a socket is full\n"); exit(1); }
  }
}

int main(void) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), epoll_fd = epoll_create1(0), left = 0, n = 0;
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  socklen_t size = sizeof address;
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0) return 1;
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  struct epoll_event e = { .events = EPOLLIN, .data.fd = listener };
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
  e.data.fd = 0;
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &e);
  for (;;) {
    struct epoll_event events[256];
    int ready = epoll_wait(epoll_fd, events, 256, left > 0 ? 0 : -1);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      char buffer[4096];
      if (fd == 0) {
        ssize_t length = read(0, buffer, sizeof buffer - 1);
        if (length <= 0) return 0;
        buffer[length] = 0;
        left += atoi(buffer);
      } else if (fd == listener) {
        int one = 1, client = accept(listener, NULL, NULL);
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(client, F_SETFL, O_NONBLOCK);
        e.data.fd = client;
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, client, &e);
        clients[count++] = client;
      } else if (read(fd, buffer, sizeof buffer) > 0) {
        if (write(fd, head, sizeof head - 1) < 0) return 1;
      } else {
        for (int k = 0; k < count; k++) if (clients[k] == fd) clients[k] = clients[--count];
        close(fd);
      }
    }
    if (left > 0) {
      left--;
      publish(n++);
    }
  }
}
