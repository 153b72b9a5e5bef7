// The floor: what event streams cost if a server does nothing but write. One thread and one epoll; events that arrive
// together are one write per viewer, as in the hub. No login, no ids that last, no heartbeat, no backpressure: a viewer
// that does not take its bytes is closed. Usage: floor PORT REDIS_URL. Viewers watch /sse/NAME-NUMBER.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 1 << 17, ROOM = 1 << 20, HEAD = 4096 };

struct room { int *fds, count, size; char *out; int length, is_due; };

static struct room *rooms;
static int *due, dues, *room_of;  // room_of: by descriptor; -1 until its request was read
static char **heads;
static long number;

static void fail(const char *what) { perror(what); exit(1); }

static void leave(int fd) {
    if (room_of[fd] >= 0) {
        struct room *room = &rooms[room_of[fd]];
        for (int i = 0; i < room->count; i++)
            if (room->fds[i] == fd) { room->fds[i] = room->fds[--room->count]; break; }
    }
    free(heads[fd]);
    heads[fd] = NULL;
    room_of[fd] = -1;
    close(fd);
}

static void enter(int fd) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
                                 "\r\nb\r\n: welcome\n\n\r\n";
    char *end = strstr(heads[fd], " HTTP/1.1\r\n"), *dash;
    if (!end) { leave(fd); return; }
    *end = 0;
    dash = strrchr(heads[fd], '-');
    int index = dash ? atoi(dash + 1) : 0;
    if (index < 0 || index >= ROOM) { leave(fd); return; }
    struct room *room = &rooms[index];
    if (room->count == room->size) {
        room->size = room->size ? 2 * room->size : 2;
        room->fds = realloc(room->fds, room->size * sizeof(int));
    }
    room->fds[room->count++] = fd;
    room_of[fd] = index;
    free(heads[fd]);
    heads[fd] = NULL;
    if (write(fd, answer, sizeof answer - 1) < 0) leave(fd);
}

static void hear(int fd) {
    char rest[HEAD];
    if (room_of[fd] >= 0) {
        if (read(fd, rest, sizeof rest) <= 0) leave(fd);
        return;
    }
    if (!heads[fd]) heads[fd] = calloc(1, HEAD);
    int have = strlen(heads[fd]);
    int got = read(fd, heads[fd] + have, HEAD - 1 - have);
    if (got <= 0) leave(fd);
    else if (strstr(heads[fd], "\r\n\r\n")) enter(fd);
}

static void publish(const char *channel, int length, const char *body, int size) {
    const char *colon = memrchr(channel, ':', length), *dash = memrchr(channel, '-', colon - channel);
    struct room *room = &rooms[atoi(dash + 1)];
    if (!room->count) return;
    char head[64];
    int ahead = sprintf(head, "id: 1732345000123-%ld\ndata: ", number++);
    room->out = realloc(room->out, room->length + ahead + size + 32);
    char *at = room->out + room->length;
    at += sprintf(at, "%x\r\n", ahead + size + 2);
    at = mempcpy(at, head, ahead);
    at = mempcpy(at, body, size);
    at = mempcpy(at, "\n\n\r\n", 4);
    room->length = at - room->out;
    if (!room->is_due) { room->is_due = 1; due[dues++] = room - rooms; }
}

static void deliver(void) {
    for (int i = 0; i < dues; i++) {
        struct room *room = &rooms[due[i]];
        for (int j = room->count - 1; j >= 0; j--)
            if (write(room->fds[j], room->out, room->length) != room->length) leave(room->fds[j]);
        room->length = room->is_due = 0;
    }
    dues = 0;
}

static char buffer[1 << 22];
static int filled;

// One reply of Redis, an array of bulk strings. Returns the bytes it takes, 0 if it is not all there.
static int reply(char *data, int size) {
    char *at = data, *end = data + size, *line, *parts[4];
    int lengths[4];
    if (!(line = memmem(at, end - at, "\r\n", 2))) return 0;
    int count = atoi(at + 1);
    if (*at != '*') return line + 2 - data;
    at = line + 2;
    for (int i = 0; i < count; i++) {
        if (at >= end || !(line = memmem(at, end - at, "\r\n", 2))) return 0;
        if (*at == ':') { at = line + 2; continue; }
        int length = atoi(at + 1);
        at = line + 2;
        if (end - at < length + 2) return 0;
        if (i < 4) { parts[i] = at; lengths[i] = length; }
        at += length + 2;
    }
    if (count == 4) publish(parts[2], lengths[2], parts[3], lengths[3]);
    return at - data;
}

static void take(int redis) {
    int got = read(redis, buffer + filled, sizeof buffer - filled), at = 0, took;
    if (got <= 0) fail("redis");
    filled += got;
    while (at < filled && (took = reply(buffer + at, filled - at))) at += took;
    memmove(buffer, buffer + at, filled -= at);
    deliver();
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST ? files.rlim_max : MOST;
    setrlimit(RLIMIT_NOFILE, &files);
    rooms = calloc(ROOM, sizeof *rooms);
    due = calloc(ROOM, sizeof *due);
    heads = calloc(MOST, sizeof *heads);
    room_of = malloc(MOST * sizeof *room_of);
    for (int i = 0; i < MOST; i++) room_of[i] = -1;

    int one = 1, epoll = epoll_create1(0), door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int redis = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    place.sin_port = htons(atoi(strrchr(argv[2], ':') + 1));
    if (connect(redis, (struct sockaddr *)&place, sizeof place)) fail("connect");
    static const char ask[] = "*2\r\n$10\r\nPSUBSCRIBE\r\n$12\r\njob:*:events\r\n";
    if (write(redis, ask, sizeof ask - 1) < 0) fail("write");
    place.sin_port = htons(atoi(argv[1]));
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(door, (struct sockaddr *)&place, sizeof place) || listen(door, 4096)) fail("listen");
    watch(epoll, door);
    watch(epoll, redis);
    for (struct epoll_event events[256];;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == redis) take(redis);
            else if (fd != door) hear(fd);
            else
                while ((fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MOST) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    watch(epoll, fd);
                }
        }
        if (count < 0 && errno != EINTR) fail("epoll_wait");
    }
}
