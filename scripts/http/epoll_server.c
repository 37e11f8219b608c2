/* What `nty http --hello` does, on the kernel's sockets: the yardstick of scripts/bench http. One thread, level-triggered epoll,
 * one read and one write per request; keep-alive and pipelining, and Connection: close. The answer has as many bytes as --hello's.
 *
 *   epoll_server PORT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER = 438, EVENTS = 512, FILES = 1 << 16, HEAD = 4096 };

/* The beginning of a request that came in pieces. */
struct partial {
    size_t len;
    char head[HEAD];
};
static struct partial *partials[FILES];

static void make_answer(char *to, const char *connection)
{
    char body[ANSWER + 1];
    memset(body, 'x', ANSWER);
    body[ANSWER] = 0;
    int head = snprintf(to, ANSWER + 1, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 300\r\nConnection: %s\r\n", connection);
    /* A field that fills the head up, so that the whole is as long as it should be. */
    int fill = ANSWER - 300 - head - (int)strlen("X-Fill: \r\n\r\n");
    snprintf(to + head, ANSWER + 1 - head, "X-Fill: %.*s\r\n\r\n%.300s", fill, body, body);
}

static void end(int fd)
{
    close(fd);
    free(partials[fd]);
    partials[fd] = NULL;
}

/* Answers what is complete of a connection's input. */
static void serve(int fd, const char *keep, const char *last)
{
    static char input[HEAD + 65536], output[ANSWER * 1024];
    struct partial *before = partials[fd];
    size_t held = before ? before->len : 0;
    if (held)
        memcpy(input, before->head, held);
    ssize_t got = read(fd, input + held, sizeof input - held);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            end(fd);
        return;
    }
    size_t len = held + (size_t)got, out = 0;
    char *from = input, *head_end;
    int closing = 0;
    while (!closing && out < sizeof output && (head_end = memmem(from, len, "\r\n\r\n", 4))) {
        size_t head = (size_t)(head_end + 4 - from);
        closing = memmem(from, head, "Connection: close", 17) != NULL;
        memcpy(output + out, closing ? last : keep, ANSWER);
        out += ANSWER;
        from += head;
        len -= head;
    }
    /* An answer fits into the send buffer of whoever reads its answers; nobody else is served here. */
    if ((out && write(fd, output, out) != (ssize_t)out) || closing || len > HEAD) {
        end(fd);
        return;
    }
    if (len) {
        if (!before && !(before = partials[fd] = malloc(sizeof *before)))
            abort();
        memcpy(before->head, from, len);
        before->len = len;
    } else if (before) {
        before->len = 0;
    }
}

int main(int argc, char **argv)
{
    static char keep[ANSWER + 1], last[ANSWER + 1];
    make_answer(keep, "keep-alive");
    make_answer(last, "close");
    struct rlimit files = { FILES, FILES };
    setrlimit(RLIMIT_NOFILE, &files);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((unsigned short)(argc > 1 ? atoi(argv[1]) : 80)) };
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) {
        perror("epoll_server");
        return 1;
    }
    int epoll = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener }, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd != listener) {
                serve(events[i].data.fd, keep, last);
                continue;
            }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                event.data.fd = fd;
                if (fd >= FILES || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
                    close(fd);
            }
        }
    }
}
