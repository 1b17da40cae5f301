/* A load generator for what `wrk` does not measure: time to first token, paced event streams, open-loop arrivals.
 *
 *   streams to=PORT|/unix/path request=FILE[,FILE...] [keys=FILE] [turn=0]
 *           [connections=256] [seconds=10] [total=0] [stagger_us=0] [rate=0]
 *
 * Closed loop (rate=0): every connection sends its request, reads the answer to its end and sends again, until the
 * time is up or `total` answers have begun; connection i starts i*stagger_us late, so that a thousand streams do not
 * march in step. Open loop (rate=R): requests arrive at random (exponential gaps, fixed seed) R times a second whatever
 * the server does; latency counts from the moment a request was due, so waiting for a late server is not forgotten.
 * A request file holds one whole HTTP/1.1 request; connection i sends file i modulo their number. With keys, a file of
 * one a line, connection i sends key i modulo their number in place of the bearer token that is in the request; with
 * turn=1 each request takes the next key. Keys are written into the request as it is sent: ten thousand of them are half
 * a megabyte here. As many whole requests would be 24, in a cache that the server needs too.
 * Prints one JSON object. An "event" is one SSE event; times are microseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILES = 64, MAX_CONNECTIONS = 4096, HEAD = 16384, READ = 262144, LARGEST = 1 << 20 };
enum { IDLE, IN_HEAD, IN_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

typedef struct { long long *at; size_t used, room; } samples;

typedef struct {
    int fd, state, status, newline, first_seen, file, key, line, used;
    long long due, begun, last, left;
    int head_used;
    char head[HEAD];
} conn;

typedef struct { char *data, *token; size_t size; } text;

static text files[MAX_FILES], keys; /* of keys: size is one key's, and each ends with a newline */
static int file_count, key_count, turn, connections = 256, rate, epoll_fd;
static long long seconds = 10, total, stagger_us, stop_at, started_at, first_at, last_at;
static const char *target;
static conn conns[MAX_CONNECTIONS];
static int idle[MAX_CONNECTIONS], idle_count, opened;
static samples ttft, whole, gaps;
static long long begun, completed, events, errors, late;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void add(samples *s, long long value) {
    if (s->used == s->room) {
        s->room = s->room ? s->room * 2 : 65536;
        if (!(s->at = realloc(s->at, s->room * sizeof *s->at))) die("realloc");
    }
    s->at[s->used++] = value;
}

static int ascending(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

static void print_quantiles(const char *name, samples *s) {
    static const double wanted[] = {0.5, 0.9, 0.99, 1.0};
    static const char *names[] = {"p50", "p90", "p99", "max"};
    qsort(s->at, s->used, sizeof *s->at, ascending);
    printf(",\"%s\":{\"count\":%zu", name, s->used);
    for (int i = 0; i < 4 && s->used; i++) {
        size_t index = (size_t)ceil(wanted[i] * (double)s->used) - 1;
        printf(",\"%s\":%lld", names[i], s->at[index]);
    }
    printf("}");
}

static int connect_to(void) {
    int fd, one = 1;
    if (target[0] == '/') {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strncpy(a.sun_path, target, sizeof a.sun_path - 1);
        if ((fd = socket(AF_UNIX, SOCK_STREAM, 0)) < 0 || connect(fd, (void *)&a, sizeof a)) die("connect");
    } else {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(target)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if ((fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 || connect(fd, (void *)&a, sizeof a)) die("connect");
        setsockopt(fd, SOL_TCP, TCP_NODELAY, &one, sizeof one);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void attach(conn *c) {
    c->fd = connect_to();
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
}

static void open_another(void) {
    conn *c = &conns[opened];
    c->file = opened % file_count, c->key = key_count ? opened % key_count : 0;
    attach(c);
    opened++;
}

static void ask(conn *c) {
    text *request = &files[c->file];
    if (key_count) memcpy(request->token, keys.data + c->key * (keys.size + 1), keys.size);
    /* A request is smaller than an empty socket buffer; anything else is not the case this program is for. */
    ssize_t sent = send(c->fd, request->data, request->size, MSG_NOSIGNAL);
    if (sent != (ssize_t)request->size && errno != EPIPE && errno != ECONNRESET) die("send");
}

static void begin(conn *c, long long due) {
    c->state = IN_HEAD, c->head_used = 0, c->first_seen = 0, c->newline = 0, c->last = 0;
    c->due = due, c->begun = now_us();
    if (turn) c->key = (int)(begun % key_count);
    begun++;
    ask(c);
}

static void end(conn *c) {
    last_at = now_us(), c->used = 1;
    if (c->status == 200) completed++, add(&whole, last_at - c->due);
    else errors++;
    c->state = IDLE;
    if (rate) idle[idle_count++] = (int)(c - conns);
    else if (last_at < stop_at && (!total || begun < total)) begin(c, last_at);
}

/* A server may close a kept connection before it reads the next request: then it is sent again, as clients do. */
static void lost(conn *c) {
    int again = c->used && c->state == IN_HEAD && !c->head_used;
    close(c->fd);
    attach(c);
    c->used = 0;
    if (c->state == IDLE) return;
    if (again) {
        ask(c);
        return;
    }
    c->status = 0;
    end(c);
}

static int head_complete(conn *c) {
    char *at = memmem(c->head, c->head_used, "\r\n\r\n", 4);
    if (!at) {
        if (c->head_used == HEAD - 1) fprintf(stderr, "an answer's head is too long\n"), exit(1);
        return 0;
    }
    c->head[c->head_used] = 0;
    c->status = atoi(c->head + 9);
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->left = length && length < at ? atoll(length + 17) : 0;
    c->state = length && length < at ? IN_LENGTH : CHUNK_SIZE;
    c->line = 0;
    return (int)(at + 4 - c->head);
}

static void payload(conn *c, const char *data, size_t size, long long now) {
    if (!c->first_seen) {
        c->first_seen = 1;
        if (!first_at) first_at = now;
        if (c->status == 200) add(&ttft, now - c->due);
    }
    for (size_t i = 0; i < size; i++) {
        int newline = data[i] == '\n';
        if (newline && c->newline) {
            events++;
            if (c->last) add(&gaps, now - c->last);
            c->last = now;
        }
        c->newline = newline && !c->newline;
    }
}

/* One step over `data`: how many bytes were used. RFC 9112, section 7.1. */
static size_t chunked(conn *c, const char *data, size_t size, long long now) {
    if (c->state == CHUNK_DATA) {
        size_t take = (long long)size < c->left ? size : (size_t)c->left;
        payload(c, data, take, now);
        if (!(c->left -= (long long)take)) c->state = CHUNK_END;
        return take;
    }
    char byte = data[0];
    if (byte != '\n') {
        if (byte == '\r') return 1;
        int digit = byte >= '0' && byte <= '9' ? byte - '0' : (byte | 32) >= 'a' ? (byte | 32) - 'a' + 10 : -1;
        if (c->state == CHUNK_SIZE && digit >= 0 && digit < 16) c->left = c->left * 16 + digit;
        c->line++;
        return 1;
    }
    if (c->state == CHUNK_END) c->state = CHUNK_SIZE, c->left = 0;
    else if (c->state == CHUNK_SIZE) c->state = c->left ? CHUNK_DATA : TRAILER;
    else if (!c->line) end(c);
    c->line = 0;
    return 1;
}

static void readable(conn *c) {
    static char buffer[READ];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        lost(c);
        return;
    }
    long long now = now_us();
    for (ssize_t at = 0; at < n && c->state != IDLE;) {
        if (c->state == IN_HEAD) {
            int before = c->head_used, room = HEAD - 1 - before;
            int take = n - at < room ? (int)(n - at) : room;
            memcpy(c->head + before, buffer + at, take);
            c->head_used += take;
            int size = head_complete(c);
            at += size ? size - before : take;
            if (c->state == IN_LENGTH && !c->left) end(c);
        } else if (c->state == IN_LENGTH) {
            long long take = n - at < c->left ? n - at : c->left;
            payload(c, buffer + at, (size_t)take, now);
            at += take;
            if (!(c->left -= take)) end(c);
        } else {
            at += (ssize_t)chunked(c, buffer + at, (size_t)(n - at), now);
        }
    }
}

static text contents(const char *name) {
    FILE *f = fopen(name, "rb");
    text found = {.data = calloc(1, LARGEST + 1)};
    if (!f || !found.data) die(name);
    found.size = fread(found.data, 1, LARGEST, f);
    fclose(f);
    return found;
}

static void load(char *list) {
    for (char *name = strtok(list, ","); name && file_count < MAX_FILES; name = strtok(NULL, ","))
        files[file_count++] = contents(name);
}

/* Keys of one length, that of the bearer token in each request. */
static void load_keys(const char *name) {
    keys = contents(name);
    size_t all = keys.size;
    keys.size = strcspn(keys.data, "\n");
    key_count = (int)(all / (keys.size + 1));
    for (int i = 0; i < file_count; i++) {
        static const char field[] = "\r\nAuthorization: Bearer ";
        char *at = strstr(files[i].data, field);
        if (at) files[i].token = at + sizeof field - 1;
        if (!at || !key_count || strcspn(files[i].token, "\r") != keys.size || all % (keys.size + 1)) {
            fprintf(stderr, "%s: keys must be as long as each other and as the request's bearer token\n", name);
            exit(2);
        }
    }
}

static void options(int argc, char **argv) {
    const char *key_file = NULL;
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) continue;
        *value++ = 0;
        if (!strcmp(argv[i], "to")) target = value;
        else if (!strcmp(argv[i], "request")) load(value);
        else if (!strcmp(argv[i], "keys")) key_file = value;
        else if (!strcmp(argv[i], "turn")) turn = atoi(value);
        else if (!strcmp(argv[i], "connections")) connections = atoi(value);
        else if (!strcmp(argv[i], "seconds")) seconds = atoll(value);
        else if (!strcmp(argv[i], "total")) total = atoll(value);
        else if (!strcmp(argv[i], "stagger_us")) stagger_us = atoll(value);
        else if (!strcmp(argv[i], "rate")) rate = atoi(value);
    }
    if (!target || !file_count || connections < 1 || connections > MAX_CONNECTIONS) {
        fprintf(stderr, "usage: streams to=PORT|/path request=FILE[,FILE] [keys=FILE turn= connections= seconds= total= "
                        "stagger_us= rate=]\n");
        exit(2);
    }
    if (key_file) load_keys(key_file);
    turn = turn && key_count;
}

static void wake_at(int timer, long long when) {
    struct itimerspec at = {.it_value = {when / 1000000, when % 1000000 * 1000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static double gap_us(void) {
    static unsigned long long x = 88172645463325252ULL;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return -log(((double)(x >> 11) + 1) / 9007199254740993.0) * 1e6 / rate;
}

/* Begin what is due; when the next one is, or 0. */
static long long arrivals(void) {
    static double next;
    static int started;
    if (!rate) {
        for (; started < connections; started++) {
            long long due = started_at + started * stagger_us;
            if (due > now_us()) return due;
            begin(&conns[started], now_us());
        }
        return 0;
    }
    if (next == 0) next = (double)started_at;
    while (next <= (double)now_us()) {
        if (next >= (double)stop_at) return 0;
        if (!idle_count && opened < MAX_CONNECTIONS) open_another(), idle[idle_count++] = opened - 1;
        if (idle_count) begin(&conns[idle[--idle_count]], (long long)next);
        else late++;
        next += gap_us();
    }
    return (long long)next;
}

static int running(void) {
    int busy = 0;
    for (int i = 0; i < opened; i++) busy += conns[i].state != IDLE;
    return busy;
}

int main(int argc, char **argv) {
    options(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1);
    epoll_fd = epoll_create1(0);
    while (opened < connections) {
        open_another();
        if (rate) idle[idle_count++] = opened - 1;
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &e);
    started_at = now_us() + 1000, stop_at = started_at + seconds * 1000000;
    wake_at(timer, started_at);
    long long next = started_at, give_up = stop_at + 60 * 1000000LL;
    while ((next || running()) && now_us() < give_up) {
        struct epoll_event ready[512];
        int count = epoll_wait(epoll_fd, ready, 512, 1000);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.ptr) { readable(ready[i].data.ptr); continue; }
            unsigned long long expirations;
            if (read(timer, &expirations, 8) == 8 && (next = arrivals())) wake_at(timer, next);
        }
    }
    printf("{\"completed\":%lld,\"events\":%lld,\"errors\":%lld,\"unfinished\":%d,\"not_sent\":%lld,\"wall_us\":%lld", completed,
           events, errors, running(), late, last_at - started_at);
    print_quantiles("ttft_us", &ttft);
    print_quantiles("whole_us", &whole);
    print_quantiles("gap_us", &gaps);
    puts("}");
    return 0;
}
