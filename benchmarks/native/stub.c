/* An engine that computes nothing: the fastest thing that speaks OpenAI's wire, so that it is never the limit.
 *
 *   stub PORT|/unix/path[,...] [CHUNKS [PERIOD_MS]]
 *
 * A request with `"stream":true` (or a space after the colon) gets CHUNKS events, the first at once and then one each
 * PERIOD_MS, a usage event when `include_usage` stands in its body, and `data: [DONE]`. Any other POST gets one 1.1 KB
 * answer at once; any GET, a list of one model.
 * Heads must fit one read buffer; that is enough for a benchmark and for nothing else. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX = 8192, IN = 65536 };

typedef struct {
    int fd, used, left, usage, streaming;
    long long due;
    char in[IN];
} conn;

static conn *conns[MAX];
static char listens[MAX];
static int chunks = 100, period_ms = 5, epoll_fd, timer, streaming, highest;
static char json[4096], event[512], models[512];
static int json_len, event_len, models_len;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void put(conn *c, const char *data, int len) {
    while (len > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) { usleep(100); continue; }
            return;
        }
        data += n, len -= n;
    }
}

static void put_chunk(conn *c, const char *data) {
    char out[1024];
    int n = snprintf(out, sizeof out, "%zx\r\n%s\r\n", strlen(data), data);
    put(c, out, n);
}

/* The timer runs while anything is streaming: at rest the stub is at rest, and leaves its core to the others. */
static void stream(conn *c, int on) {
    if (c->streaming == on) return;
    c->streaming = on, streaming += on ? 1 : -1;
    if (streaming != on) return; /* neither the first nor the last */
    struct timespec step = {0, on ? 500000 : 0};
    struct itimerspec every = {step, step};
    timerfd_settime(timer, 0, &every, NULL);
}

static void finish(conn *c) {
    if (c->usage)
        put_chunk(c, "data: {\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":"
                     "{\"prompt_tokens\":400,\"completion_tokens\":100,\"total_tokens\":500}}\n\n");
    put(c, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 24);
    stream(c, 0);
}

static void drop(conn *c) {
    stream(c, 0);
    close(c->fd);
    conns[c->fd] = NULL;
    free(c);
}

static void answer(conn *c, char *head, char *body, int body_len) {
    if (head[0] == 'G') {
        put(c, models, models_len);
        return;
    }
    char saved = body[body_len];
    body[body_len] = 0;
    if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true")) {
        c->usage = strstr(body, "include_usage") != NULL;
        stream(c, 1);
        c->left = chunks;
        put(c, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n", 80);
        /* The first event goes out at once: the ticks' grain must not show in the time to first token. */
        put(c, event, event_len);
        c->left--, c->due = now_us() + period_ms * 1000LL;
    } else {
        put(c, json, json_len);
    }
    body[body_len] = saved;
}

static void readable(conn *c) {
    ssize_t n = recv(c->fd, c->in + c->used, IN - 1 - c->used, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN) return;
        drop(c);
        return;
    }
    c->used += n;
    for (;;) {
        c->in[c->used] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return;
        int length = 0;
        char *at = strcasestr(c->in, "content-length:");
        if (at && at < end) length = atoi(at + 15);
        int whole = end + 4 - c->in + length;
        if (c->used < whole) return;
        answer(c, c->in, end + 4, length);
        memmove(c->in, c->in + whole, c->used - whole);
        c->used -= whole;
        if (!c->used) return;
    }
}

static int listening(const char *where) {
    int fd;
    if (where[0] == '/') {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strncpy(a.sun_path, where, sizeof a.sun_path - 1);
        unlink(where);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (bind(fd, (void *)&a, sizeof a)) perror("bind"), exit(1);
        chmod(where, 0666); /* nginx, started by root, works as somebody else */
    } else {
        int one = 1;
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(where)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (void *)&a, sizeof a)) perror("bind"), exit(1);
    }
    listen(fd, 4096);
    return fd;
}

static void tick(void) {
    long long now = now_us();
    for (int fd = 0; fd <= highest; fd++) {
        conn *c = conns[fd];
        if (!c || !c->streaming) continue;
        while (c->streaming && c->due <= now) {
            if (c->left-- > 0) put(c, event, event_len), c->due += period_ms * 1000LL;
            else finish(c);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: stub PORT|/path[,...] [CHUNKS [PERIOD_MS]]\n"), 2;
    if (argc > 2) chunks = atoi(argv[2]);
    if (argc > 3) period_ms = atoi(argv[3]);
    char body[2048], filler[900];
    memset(filler, 'x', sizeof filler - 1);
    filler[sizeof filler - 1] = 0;
    int n = snprintf(body, sizeof body,
                     "{\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"stub\",\"choices\":[{"
                     "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],\"usage\":"
                     "{\"prompt_tokens\":400,\"completion_tokens\":100,\"total_tokens\":500}}", filler);
    json_len = snprintf(json, sizeof json,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", n, body);
    const char *data = "data: {\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"stub\","
                       "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n";
    event_len = snprintf(event, sizeof event, "%zx\r\n%s\r\n", strlen(data), data);
    const char *list = "{\"object\":\"list\",\"data\":[{\"id\":\"stub\",\"object\":\"model\",\"created\":1,\"owned_by\":\"stub\"}]}";
    models_len = snprintf(models, sizeof models,
                          "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(list), list);

    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN};
    for (char *where = strtok(argv[1], ","); where; where = strtok(NULL, ",")) {
        e.data.fd = listening(where);
        listens[e.data.fd] = 1;
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, e.data.fd, &e);
    }
    e.data.fd = timer;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &e);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (listens[fd]) {
                int client;
                while ((client = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (client >= MAX) { close(client); continue; }
                    int one = 1;
                    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[client] = calloc(1, sizeof(conn));
                    conns[client]->fd = client;
                    if (client > highest) highest = client;
                    e.data.fd = client;
                    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, client, &e);
                }
            } else if (fd == timer) {
                unsigned long long expirations;
                if (read(timer, &expirations, 8) == 8) tick();
            } else if (conns[fd]) {
                readable(conns[fd]);
            }
        }
    }
}
