// A plugin for QEMU's user mode: counts the guest's instructions, and prints the count so far, a line on stderr, whenever
// the guest calls getppid(), which libraries have no reason to. Declared here, as Debian has no package of
// qemu-plugin.h; the functions are the same in QEMU 7 to 10, all of which accept one of two numbers as API_VERSION.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))
#define NO_REGISTERS_READ 0
#define GETPPID 173  // on arm64

typedef uint64_t Id;
struct qemu_plugin_tb;  // a translated block of instructions
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(Id, void (*)(Id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
typedef void OnCall(Id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(Id, OnCall *);

EXPORT int qemu_plugin_version = API_VERSION;
static uint64_t count;  // not atomic: the guest computes in one thread

static void executed(unsigned cpu, void *instructions) { count += (size_t)instructions; }

static void translated(Id id, struct qemu_plugin_tb *block) {
    void *instructions = (void *)qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS_READ, instructions);
}

static void called(Id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f, uint64_t g, uint64_t h) {
    if (number == GETPPID) fprintf(stderr, "instructions: %" PRIu64 "\n", count);
}

EXPORT int qemu_plugin_install(Id id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
