/* The physical limit of container starts on this machine: what the kernel alone takes.
 *
 *   limit N [WORKERS]
 *
 * Each of N containers is clone3(2) with new mnt, pid, net, ipc and uts namespaces into its own cgroup v2 (and v1 memory
 * and pids cgroups where those controllers are there), a veth pair made straight into its network namespace, its address
 * and routes by netlink(7) on both sides, a cgroup namespace, an overlay with pivot_root(2), and execve(2) of a static
 * program that sleeps. WORKERS processes (default 2) do so side by side. Prints one JSON object; removes all it made.
 *
 * The "host" end lives in a network and mount namespace of this program's own, so nothing can stay on the machine. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_HIERARCHIES = 3, PATH_SIZE = 256 };

static char folder[PATH_SIZE];                        /* overlay folders, on the file system of the state folder */
static char groups[MAX_HIERARCHIES][PATH_SIZE];       /* our cgroup in each hierarchy; [0] is v2 */
static int group_count;

static void fail(const char *what) {
    dprintf(2, "limit: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static int check(int result, const char *what) {
    if (result < 0) fail(what);
    return result;
}

static const char *path(char *buffer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, PATH_SIZE, format, arguments);
    va_end(arguments);
    return buffer;
}

static int write_file(const char *name, const char *text) {
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t done = write(fd, text, strlen(text));
    close(fd);
    return done < 0 ? -1 : 0;
}

/* --- netlink ------------------------------------------------------------------------------------------------- */

struct message {
    struct nlmsghdr header;
    char body[1024];
};

static void *put(struct message *m, int type, const void *value, size_t size) {
    struct rtattr *attribute = (void *)((char *)m + NLMSG_ALIGN(m->header.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    if (size) memcpy(RTA_DATA(attribute), value, size);
    m->header.nlmsg_len = NLMSG_ALIGN(m->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static void end(struct message *m, void *start) {
    ((struct rtattr *)start)->rta_len = (char *)m + NLMSG_ALIGN(m->header.nlmsg_len) - (char *)start;
}

static void *begin(struct message *m, int type, int flags, const void *family, size_t size) {
    memset(m, 0, sizeof *m);
    m->header.nlmsg_type = type;
    m->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    m->header.nlmsg_len = NLMSG_LENGTH(size);
    return memcpy(NLMSG_DATA(&m->header), family, size);
}

static void ask(int socket, struct message *m, const char *what) {
    static char answer[8192];
    if (send(socket, m, m->header.nlmsg_len, 0) < 0) fail(what);
    if (recv(socket, answer, sizeof answer, 0) < 0) fail(what);
    struct nlmsghdr *header = (void *)answer;
    int error = header->nlmsg_type == NLMSG_ERROR ? ((struct nlmsgerr *)NLMSG_DATA(header))->error : 0;
    if (error) {
        errno = -error;
        fail(what);
    }
}

static void make_veth(int socket, const char *name, pid_t target) {
    struct message m;
    struct ifinfomsg link = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
    begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
    put(&m, IFLA_IFNAME, name, strlen(name) + 1);
    void *info = put(&m, IFLA_LINKINFO, 0, 0);
    put(&m, IFLA_INFO_KIND, "veth", 4);
    void *data = put(&m, IFLA_INFO_DATA, 0, 0);
    void *other = put(&m, VETH_INFO_PEER, &peer, sizeof peer);
    put(&m, IFLA_IFNAME, "eth0", 5);
    uint32_t pid = target;
    put(&m, IFLA_NET_NS_PID, &pid, sizeof pid);
    end(&m, other);
    end(&m, data);
    end(&m, info);
    ask(socket, &m, "RTM_NEWLINK veth");
}

static void set_up(int socket, int index) {
    struct message m;
    struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(&m, RTM_NEWLINK, 0, &link, sizeof link);
    ask(socket, &m, "RTM_NEWLINK up");
}

static void add_address(int socket, int index, uint32_t address) {
    struct message m;
    struct ifaddrmsg family = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = index};
    begin(&m, RTM_NEWADDR, NLM_F_CREATE, &family, sizeof family);
    put(&m, IFA_LOCAL, &address, sizeof address);
    ask(socket, &m, "RTM_NEWADDR");
}

static void add_route(int socket, uint32_t index, uint32_t to, int bits, uint32_t gateway) {
    struct message m;
    struct rtmsg route = {.rtm_family = AF_INET, .rtm_dst_len = bits, .rtm_table = RT_TABLE_MAIN, .rtm_type = RTN_UNICAST,
                          .rtm_protocol = RTPROT_STATIC, .rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK};
    begin(&m, RTM_NEWROUTE, NLM_F_CREATE, &route, sizeof route);
    if (bits) put(&m, RTA_DST, &to, sizeof to);
    if (gateway) put(&m, RTA_GATEWAY, &gateway, sizeof gateway);
    put(&m, RTA_OIF, &index, sizeof index);
    ask(socket, &m, "RTM_NEWROUTE");
}

static void add_neighbour(int socket, int index, uint32_t address) {
    struct message m;
    struct ndmsg entry = {.ndm_family = AF_INET, .ndm_ifindex = index, .ndm_state = NUD_PERMANENT};
    unsigned char hardware[6] = {2, 0, 0, 0, 0, 1};
    begin(&m, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &entry, sizeof entry);
    put(&m, NDA_DST, &address, sizeof address);
    put(&m, NDA_LLADDR, hardware, sizeof hardware);
    ask(socket, &m, "RTM_NEWNEIGH");
}

static int netlink(void) { return check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink"); }

static uint32_t address_of(int i) { return htonl(0x0a000000u + 256 + i); }

/* --- one container ------------------------------------------------------------------------------------------- */

static void child(int i, int ready) {
    char a[PATH_SIZE], options[4 * PATH_SIZE], byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int each = 1; each < group_count; each++)
        check(write_file(path(a, "%s/%d/cgroup.procs", groups[each], i), "0"), "join cgroup v1");
    check(unshare(CLONE_NEWCGROUP), "unshare cgroup");
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
    snprintf(options, sizeof options, "lowerdir=%s/lower,upperdir=%s/%d/u,workdir=%s/%d/w", folder, folder, i, folder, i);
    path(a, "%s/%d/m", folder, i);
    check(mount("overlay", a, "overlay", 0, options), "mount overlay");
    check(chdir(a), "chdir");
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "detach the old root");
    check(sethostname("container", 9), "sethostname");

    if (read(ready, &byte, 1) != 1) fail("wait for the veth pair"); /* the parent makes it meanwhile */
    int socket = netlink(), index = if_nametoindex("eth0");
    uint32_t gateway = inet_addr("169.254.1.1");
    set_up(socket, 1);
    set_up(socket, index);
    add_address(socket, index, address_of(i));
    add_route(socket, index, gateway, 32, 0);
    add_neighbour(socket, index, gateway);
    add_route(socket, index, 0, 0, gateway);
    execve("/sleep", (char *[]){"sleep", NULL}, (char *[]){NULL});
    fail("execve");
}

static void start(int i, int socket) {
    char a[PATH_SIZE], name[IFNAMSIZ], byte = 0;
    for (int each = 0; each < group_count; each++) check(mkdir(path(a, "%s/%d", groups[each], i), 0755), a);
    check(mkdir(path(a, "%s/%d", folder, i), 0755), a);
    check(mkdir(path(a, "%s/%d/u", folder, i), 0755), a);
    check(mkdir(path(a, "%s/%d/w", folder, i), 0755), a);
    check(mkdir(path(a, "%s/%d/m", folder, i), 0755), a);

    int ready[2], done[2];
    check(pipe2(ready, O_CLOEXEC), "pipe");
    check(pipe2(done, O_CLOEXEC), "pipe");
    int group = check(open(path(a, "%s/%d", groups[0], i), O_PATH | O_CLOEXEC), a);
    struct clone_args arguments = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .cgroup = group,
    };
    pid_t pid = check(syscall(SYS_clone3, &arguments, sizeof arguments), "clone3");
    if (pid == 0) {
        close(ready[1]);
        child(i, ready[0]);
    }
    close(group);
    close(ready[0]);
    close(done[1]);
    snprintf(name, sizeof name, "limit%d", i);
    make_veth(socket, name, pid);
    int index = if_nametoindex(name);
    add_route(socket, index, address_of(i), 32, 0);
    add_neighbour(socket, index, address_of(i));
    if (write(ready[1], &byte, 1) != 1) fail("tell the child");
    /* `done` closes at execve; a child that failed has said why and exits. */
    if (read(done[0], &byte, 1) != 0) fail("wait for execve");
    if (waitpid(pid, NULL, WNOHANG) != 0) fail("a container ended early");
    close(ready[1]);
    close(done[0]);
}

/* --- the whole run ------------------------------------------------------------------------------------------- */

static int is_option(const char *options, const char *wanted) {
    size_t size = strlen(wanted);
    for (const char *at = options; (at = strstr(at, wanted)); at += size)
        if ((at == options || at[-1] == ',') && (at[size] == ',' || at[size] == 0)) return 1;
    return 0;
}

static void find_cgroups(void) {
    char device[PATH_SIZE], at[PATH_SIZE], type[64], options[512], a[PATH_SIZE];
    FILE *mounts = fopen("/proc/self/mounts", "r");
    if (!mounts) fail("/proc/self/mounts");
    group_count = 1;
    while (fscanf(mounts, "%255s %255s %63s %511s %*d %*d", device, at, type, options) == 4) {
        if (!strcmp(type, "cgroup2") && !groups[0][0]) path(groups[0], "%.200s/orchestrator-limit-%d", at, getpid());
        if (!strcmp(type, "cgroup") && group_count < MAX_HIERARCHIES &&
            (is_option(options, "memory") || is_option(options, "pids")))
            path(groups[group_count++], "%.200s/orchestrator-limit-%d", at, getpid());
        if (!strcmp(type, "cgroup2")) write_file(path(a, "%.200s/cgroup.subtree_control", at), "+memory +pids");
    }
    fclose(mounts);
    if (!groups[0][0]) {
        errno = ENOENT;
        fail("no cgroup2 file system is mounted");
    }
}

static void copy_self(const char *target) {
    char buffer[65536];
    ssize_t size;
    int from = check(open("/proc/self/exe", O_RDONLY), "/proc/self/exe"), to = check(open(target, O_WRONLY | O_CREAT, 0755), target);
    while ((size = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, size) != size) fail(target);
    close(from);
    close(to);
}

static int remove_one(const char *name, const struct stat *s, int type, struct FTW *where) {
    (void)s, (void)type, (void)where;
    return remove(name), 0;
}

static void clean_up(int n) {
    char a[PATH_SIZE];
    for (int each = 0; each < group_count; each++) {
        for (int turn = 0; turn < 500; turn++) { /* processes may still be dying: at most 5 s */
            for (int i = 0; i < n; i++) rmdir(path(a, "%s/%d", groups[each], i));
            if (rmdir(groups[each]) == 0 || errno == ENOENT) break;
            usleep(10000);
        }
    }
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void work(int worker, int workers, int n, int finished, int hold) {
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int socket = netlink();
    for (int i = worker; i < n; i += workers) start(i, socket);
    if (write(finished, &byte, 1) != 1) fail("report");
    if (read(hold, &byte, 1) < 0) fail("hold"); /* our containers die with us */
    _exit(0);
}

/* Runs in a child, so that whatever fails in it, the parent cleans up. */
static void measure(int n, int workers) {
    int finished[2], hold[2];
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    check(pipe2(finished, O_CLOEXEC), "pipe");
    check(pipe2(hold, O_CLOEXEC), "pipe");
    double begun = now();
    for (int worker = 0; worker < workers; worker++) {
        pid_t pid = check(fork(), "fork");
        if (pid == 0) {
            close(finished[0]);
            close(hold[1]);
            work(worker, workers, n, finished[1], hold[0]);
        }
    }
    close(finished[1]);
    for (int worker = 0; worker < workers; worker++)
        if (read(finished[0], &byte, 1) != 1) {
            errno = ECHILD;
            fail("a worker failed");
        }
    double seconds = now() - begun;
    printf("{\"n\": %d, \"workers\": %d, \"seconds\": %.4f, \"starts_per_second\": %.1f}\n", n, workers, seconds, n / seconds);
    fflush(stdout);
    close(hold[1]);
    while (wait(NULL) > 0) {}
    _exit(0);
}

static void on_signal(int number) { (void)number; }

int main(int count, char **arguments) {
    char a[PATH_SIZE];
    if (!strcmp(arguments[0], "sleep")) {
        pause();
        return 0;
    }
    int n = count > 1 ? atoi(arguments[1]) : 50, workers = count > 2 ? atoi(arguments[2]) : 2;
    if (n < 1 || n > 10000 || workers < 1 || workers > 64) {
        dprintf(2, "usage: limit N [WORKERS]\n");
        return 2;
    }
    check(unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare (needs root)");
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
    int socket = netlink();
    set_up(socket, 1);
    find_cgroups();
    path(folder, "%.200s/orchestrator-limit-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(folder)) fail(folder);
    check(mkdir(path(a, "%s/lower", folder), 0755), a);
    copy_self(path(a, "%s/lower/sleep", folder));
    for (int each = 0; each < group_count; each++) check(mkdir(groups[each], 0755), groups[each]);
    write_file(path(a, "%s/cgroup.subtree_control", groups[0]), "+memory +pids");

    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) measure(n, workers);
    if (waitpid(pid, &status, 0) < 0) { /* a signal: end the run, then clean up */
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    clean_up(n);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
