/* What nty does in scripts/bench devices, on the kernel's sockets: its yardstick, and its other end over TCP. One thread, blocking calls,
 * datagrams in batches of 64.
 *
 *   peer echo PORT                                   sends datagrams back
 *   peer sink PORT                                   counts them; says "frames seconds" at SIGTERM, between the first and the last
 *   peer flood ADDRESS PORT                          sends datagrams of 18 bytes; says "frames seconds" at SIGTERM
 *   peer bulk-server PORT                            a server of `nty perf` over TCP, one client after the other
 *   peer bulk ADDRESS PORT up|down SECONDS           a client of `nty perf` over TCP; says "bytes seconds"
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, ROOM = 2048, BLOCK = 128 << 10, UP = 1, DOWN = 2 };

/* The first bytes of a stream (apps/perf/request.rs). */
struct request {
    char magic[4];
    uint8_t flow, unit, zero[2];
    uint32_t stream, write_len;
    uint64_t amount, reserved;
};

static struct mmsghdr batch[BATCH];
static struct iovec parts[BATCH];
static struct sockaddr_in from[BATCH];
static char rooms[BATCH][ROOM], block[BLOCK];
static volatile sig_atomic_t stop;

static void on_signal(int signal) { (void)signal; stop = 1; }

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static struct sockaddr_in at(const char *address, const char *port)
{
    struct sockaddr_in made = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
    if (inet_pton(AF_INET, address, &made.sin_addr) != 1) {
        fprintf(stderr, "peer: %s is no IPv4 address\n", address);
        exit(2);
    }
    return made;
}

/* A socket bound to a port, or connected to one. */
static int open_socket(int type, struct sockaddr_in where, int (*join)(int, const struct sockaddr *, socklen_t))
{
    int fd = socket(AF_INET, type, 0), on = 1, room = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (type == SOCK_DGRAM)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    if (join(fd, (struct sockaddr *)&where, sizeof where))
        fail("peer");
    return fd;
}

/* Those who count say what they have at the end. */
static void count_until_terminated(void)
{
    struct sigaction on_term = { .sa_handler = on_signal };
    sigaction(SIGTERM, &on_term, NULL);
}

static void ready(void)
{
    puts("ready");
    fflush(stdout);
}

static int receive_batch(int fd)
{
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){ rooms[i], ROOM };
        batch[i].msg_hdr = (struct msghdr){ .msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &parts[i], .msg_iovlen = 1 };
    }
    return recvmmsg(fd, batch, BATCH, MSG_WAITFORONE, NULL);
}

static void echo(int fd)
{
    ready();
    for (;;) {
        int n = receive_batch(fd);
        for (int i = 0; i < n; i++)
            parts[i].iov_len = batch[i].msg_len;
        for (int done = 0, sent; done < n; done += sent)
            if ((sent = sendmmsg(fd, batch + done, (unsigned)(n - done), 0)) <= 0)
                break;
    }
}

static void sink(int fd)
{
    double first = 0, last = 0;
    long frames = 0;
    count_until_terminated();
    ready();
    while (!stop) {
        int n = receive_batch(fd);
        if (n <= 0)
            continue;
        last = now();
        if (!frames)
            first = last;
        frames += n;
    }
    printf("%ld %.6f\n", frames, last - first);
}

static void flood(int fd)
{
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){ rooms[i], 18 };
        batch[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
    }
    double begin = now();
    long frames = 0;
    count_until_terminated();
    ready();
    while (!stop) {
        int n = sendmmsg(fd, batch, BATCH, 0);
        frames += n > 0 ? n : 0;
    }
    printf("%ld %.6f\n", frames, now() - begin);
}

/* Sends for some time, then ends this direction; or receives until the other end has. */
static long transfer(int fd, int sends, double seconds)
{
    long bytes = 0;
    ssize_t n;
    for (double end = now() + seconds; sends && now() < end; bytes += n)
        if ((n = write(fd, block, sizeof block)) < 0)
            break;
    if (sends)
        shutdown(fd, SHUT_WR);
    while ((n = read(fd, block, sizeof block)) > 0)
        bytes += sends ? 0 : n;
    return bytes;
}

static void bulk_server(int listener)
{
    if (listen(listener, 16))
        fail("listen");
    ready();
    for (;;) {
        struct request request;
        int fd = accept(listener, NULL, NULL);
        if (recv(fd, &request, sizeof request, MSG_WAITALL) == sizeof request)
            transfer(fd, request.flow == DOWN, (double)be64toh(request.amount) / 1e9);
        close(fd);
    }
}

static void bulk(int fd, int flow, double seconds)
{
    struct request request = { "nty\2", (uint8_t)flow, 1, { 0 }, 0, htobe32(BLOCK), htobe64((uint64_t)(seconds * 1e9)), 0 };
    double begin = now();
    if (write(fd, &request, sizeof request) != sizeof request)
        fail("write");
    long bytes = transfer(fd, flow == UP, seconds);
    printf("%ld %.6f\n", bytes, now() - begin);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(what, "echo"))
        echo(open_socket(SOCK_DGRAM, at("0.0.0.0", argv[2]), bind));
    else if (argc == 3 && !strcmp(what, "sink"))
        sink(open_socket(SOCK_DGRAM, at("0.0.0.0", argv[2]), bind));
    else if (argc == 4 && !strcmp(what, "flood"))
        flood(open_socket(SOCK_DGRAM, at(argv[2], argv[3]), connect));
    else if (argc == 3 && !strcmp(what, "bulk-server"))
        bulk_server(open_socket(SOCK_STREAM, at("0.0.0.0", argv[2]), bind));
    else if (argc == 6 && !strcmp(what, "bulk"))
        bulk(open_socket(SOCK_STREAM, at(argv[2], argv[3]), connect), !strcmp(argv[4], "up") ? UP : DOWN, atof(argv[5]));
    else {
        fprintf(stderr, "peer: what it can do is in its source\n");
        return 2;
    }
    return 0;
}
