/* A libnvidia-ml.so.1 with one GPU and two MIG devices on it: what tests/unit/adapters/test_accelerators.py asks. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
static int whole, parts[2];

static int part_of(void *device) { return device == &parts[0] ? 0 : device == &parts[1] ? 1 : -1; }

int nvmlInit_v2(void) { return OK; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "no such thing"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.144.03"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &whole; return index ? NOT_FOUND : OK; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    snprintf(text, size, part_of(device) < 0 ? "NVIDIA H100" : "NVIDIA H100 MIG 3g.40gb");
    return OK;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    if (part_of(device) < 0) snprintf(text, size, "GPU-whole");
    else snprintf(text, size, "MIG-%d", part_of(device));
    return OK;
}
int nvmlDeviceGetMinorNumber(void *device, unsigned *number) { (void)device; *number = 0; return OK; }
int nvmlDeviceGetArchitecture(void *device, unsigned *kind) { (void)device; *kind = 9; return OK; }
int nvmlDeviceGetSerial(void *device, char *text, unsigned size) { (void)device; (void)text; (void)size; return NOT_SUPPORTED; }

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; };
int nvmlDeviceGetPciInfo_v3(void *device, struct pci *found) {
    (void)device;
    memset(found, 0, sizeof *found);
    snprintf(found->address, sizeof found->address, "00000000:4F:00.0");
    return OK;
}
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *device, struct memory *found) {
    found->total = (part_of(device) < 0 ? 80ULL : 40ULL) << 30;
    found->used = 1ULL << 30;
    found->free = found->total - found->used;
    return OK;
}
struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *device, struct rates *found) { (void)device; found->gpu = 7; found->memory = 2; return OK; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { (void)device; *milliwatts = 99310; return OK; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { (void)device; (void)sensor; *celsius = 33; return OK; }
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int since, unsigned long long *count) {
    (void)device; (void)kind; (void)since;
    *count = 0;
    return OK;
}
/* Only the second version, as an older driver has it. */
struct user { unsigned pid; unsigned long long memory; unsigned gi, ci; };
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, struct user *users) {
    (void)device;
    if (*count == 0) { *count = 1; return 7; /* insufficient size */ }
    *count = 1;
    users[0].pid = 4711; users[0].memory = 1ULL << 30; users[0].gi = users[0].ci = 0;
    return OK;
}
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) { (void)device; *now = *later = 1; return OK; }
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { (void)device; *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    (void)device;
    if (index > 1) return NOT_FOUND;
    *part = &parts[index];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) { *id = (unsigned)part_of(device) + 1; return OK; }
int nvmlDeviceGetComputeInstanceId(void *device, unsigned *id) { (void)device; *id = 0; return OK; }
