/* A stand-in for libnvidia-ml.so.1, for tests on machines without a GPU: NVML's calls, answered from a text file.
 *
 * DLENV_TEST_NVML names the file; without it no driver is loaded. The file is looked at again at each call, so that a
 * test can change the machine while a process uses it. nvml_machine.py writes it; its lines are
 *
 *     driver TEXT | cuda NUMBER | epoch NUMBER             sessions of another epoch are over
 *     gpu I KEY VALUES                                     see gpu_line()
 *     pair I J path LEVEL | pair I J nvlink STATUS         NVML's numbers
 *     fault FUNCTION I error CODE                          I: -1 for every GPU; FUNCTION: * for every one
 *     fault FUNCTION I hang SECONDS                        0: until the file says no more so
 *     fault FUNCTION I garbage
 *
 * OLD_DRIVER leaves out what a driver of 2020 did not have.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9,
       TIMED_OUT = 10, LOST = 15, BAD_VERSION = 25 };
enum { GPUS = 16, MIGS = 8, PROCESSES = 64, LANES = 36, FAULTS = 64, XIDS = 64 };

typedef struct { u32 pid; u64 memory; char kind; u32 percent; int mig; } process_t;
typedef struct { int there; char uuid[96], name[96]; u32 gi, ci; u64 total, used; } mig_t;
typedef struct { char kind; char bus[32]; } lane_t;

typedef struct {
    int there, lost, split, migs, processes, xids, mig_capable;
    char uuid[96], name[96], bus[32];
    u32 minor, major_cc, minor_cc, percent, memory_percent, temperature, power, limit, rows_pending, rows_failed, pages;
    u32 recovery, handle_error;
    u64 total, used, reserved, ecc, nodes;
    mig_t mig[MIGS];
    process_t process[PROCESSES];
    lane_t lane[LANES];
    u64 xid[XIDS];
} gpu_t;

typedef struct { char function[64]; int gpu; char kind; double value; } fault_t;

typedef struct {
    char driver[80];
    int cuda, count, faults;
    long epoch;
    gpu_t gpu[GPUS];
    int path[GPUS][GPUS], nvlink[GPUS][GPUS];
    fault_t fault[FAULTS];
} machine_t;

typedef struct { int gpu, mig; } handle_t; /* what nvmlDevice_t points to */
typedef struct { int gpu, next; } events_t;

static machine_t machine;
static struct stat seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int sessions;
static long session_epoch;
static handle_t handles[GPUS][MIGS + 1];

/* -- The file ---------------------------------------------------------------------------------------------------- */

static void gpu_line(gpu_t *gpu, const char *key, const char *rest)
{
    int number = 0, used = 0;
    if (!strcmp(key, "uuid")) snprintf(gpu->uuid, sizeof gpu->uuid, "%s", rest);
    else if (!strcmp(key, "name")) snprintf(gpu->name, sizeof gpu->name, "%s", rest);
    else if (!strcmp(key, "bus")) snprintf(gpu->bus, sizeof gpu->bus, "%s", rest);
    else if (!strcmp(key, "minor")) sscanf(rest, "%u", &gpu->minor);
    else if (!strcmp(key, "capability")) sscanf(rest, "%u %u", &gpu->major_cc, &gpu->minor_cc);
    else if (!strcmp(key, "memory")) sscanf(rest, "%llu %llu %llu", &gpu->total, &gpu->used, &gpu->reserved);
    else if (!strcmp(key, "utilization")) sscanf(rest, "%u %u", &gpu->percent, &gpu->memory_percent);
    else if (!strcmp(key, "temperature")) sscanf(rest, "%u", &gpu->temperature);
    else if (!strcmp(key, "power")) sscanf(rest, "%u %u", &gpu->power, &gpu->limit);
    else if (!strcmp(key, "ecc")) sscanf(rest, "%llu", &gpu->ecc);
    else if (!strcmp(key, "rows")) sscanf(rest, "%u %u", &gpu->rows_pending, &gpu->rows_failed);
    else if (!strcmp(key, "pages")) sscanf(rest, "%u", &gpu->pages);
    else if (!strcmp(key, "recovery")) sscanf(rest, "%u", &gpu->recovery);
    else if (!strcmp(key, "nodes")) sscanf(rest, "%llu", &gpu->nodes);
    else if (!strcmp(key, "lost")) sscanf(rest, "%d", &gpu->lost);
    else if (!strcmp(key, "mig")) sscanf(rest, "%d %d", &gpu->mig_capable, &gpu->split);
    else if (!strcmp(key, "slice") && sscanf(rest, "%d", &number) == 1 && number >= 0 && number < MIGS) {
        mig_t *mig = &gpu->mig[number]; /* slice N UUID GI CI TOTAL USED NAME */
        if (sscanf(rest, "%d %95s %u %u %llu %llu %n", &number, mig->uuid, &mig->gi, &mig->ci, &mig->total, &mig->used,
                   &used) == 6) {
            mig->there = 1;
            snprintf(mig->name, sizeof mig->name, "%s", rest + used);
        }
    } else if (!strcmp(key, "process") && gpu->processes < PROCESSES) {
        process_t *p = &gpu->process[gpu->processes]; /* process PID MEMORY c|g|m PERCENT SLICE */
        gpu->processes += sscanf(rest, "%u %llu %c %u %d", &p->pid, &p->memory, &p->kind, &p->percent, &p->mig) == 5;
    } else if (!strcmp(key, "lane") && sscanf(rest, "%d", &number) == 1 && number >= 0 && number < LANES)
        sscanf(rest, "%d %c %31s", &number, &gpu->lane[number].kind, gpu->lane[number].bus); /* g|s|x: GPU, switch */
    else if (!strcmp(key, "xid") && gpu->xids < XIDS) gpu->xids += sscanf(rest, "%llu", &gpu->xid[gpu->xids]) == 1;
}

static void line(machine_t *to, char *text)
{
    int one = 0, other = 0, used = 0, value = 0;
    char key[32] = "", kind[16] = "";
    text[strcspn(text, "\n")] = 0;
    if (!strncmp(text, "driver ", 7)) snprintf(to->driver, sizeof to->driver, "%.79s", text + 7);
    else if (sscanf(text, "cuda %d", &to->cuda) == 1 || sscanf(text, "epoch %ld", &to->epoch) == 1) return;
    else if (sscanf(text, "gpu %d %31s %n", &one, key, &used) == 2 && one >= 0 && one < GPUS) {
        to->gpu[one].there = 1;
        to->count = one >= to->count ? one + 1 : to->count;
        gpu_line(&to->gpu[one], key, text + used);
    } else if (sscanf(text, "pair %d %d %31s %d", &one, &other, key, &value) == 4 && one >= 0 && one < GPUS &&
               other >= 0 && other < GPUS) {
        int(*table)[GPUS] = strcmp(key, "path") ? to->nvlink : to->path;
        table[one][other] = table[other][one] = value;
    } else if (to->faults < FAULTS) {
        fault_t *fault = &to->fault[to->faults];
        fault->value = 0;
        if (sscanf(text, "fault %63s %d %15s %lf", fault->function, &fault->gpu, kind, &fault->value) >= 3) {
            fault->kind = kind[0];
            to->faults++;
        }
    }
}

static int look(void) /* with the lock held: 0 where there is no machine */
{
    static machine_t fresh;
    const char *path = getenv("DLENV_TEST_NVML");
    char text[512];
    struct stat now;
    FILE *file;
    if (!path || stat(path, &now)) return 0;
    if (machine.count && now.st_ino == seen.st_ino && now.st_dev == seen.st_dev && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return 1;
    if (!(file = fopen(path, "r"))) return 0;
    memset(&fresh, 0, sizeof fresh);
    memset(fresh.path, -1, sizeof fresh.path);
    memset(fresh.nvlink, -1, sizeof fresh.nvlink);
    while (fgets(text, sizeof text, file)) line(&fresh, text);
    fclose(file);
    machine = fresh;
    seen = now;
    return 1;
}

/* -- Faults ------------------------------------------------------------------------------------------------------ */

static fault_t *fault_of(const char *function, int gpu)
{
    for (int i = 0; i < machine.faults; i++) {
        fault_t *fault = &machine.fault[i];
        if ((!strcmp(fault->function, function) || !strcmp(fault->function, "*")) &&
            (fault->gpu == -1 || fault->gpu == gpu))
            return fault;
    }
    return NULL;
}

static void moment(void)
{
    pthread_mutex_unlock(&lock);
    usleep(5000);
    pthread_mutex_lock(&lock);
}

/* Begins each call, takes the lock, and returns what the call must return if it may not go on. */
static int begin(const char *function, int gpu, int *garbage)
{
    struct timespec from, now;
    fault_t *fault;
    pthread_mutex_lock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &from);
    *garbage = 0;
    for (;;) {
        if (!look()) return NO_DRIVER;
        fault = fault_of(function, gpu);
        clock_gettime(CLOCK_MONOTONIC, &now);
        double waited = (double)(now.tv_sec - from.tv_sec) + (double)(now.tv_nsec - from.tv_nsec) / 1e9;
        if (!fault || fault->kind != 'h' || (fault->value > 0 && waited >= fault->value)) break;
        moment();
    }
    if (fault && fault->kind == 'e') return (int)fault->value;
    *garbage = fault && fault->kind == 'g';
    if (strncmp(function, "nvmlInit", 8) && (!sessions || session_epoch != machine.epoch)) return UNINITIALIZED;
    if (gpu >= 0 && (gpu >= machine.count || !machine.gpu[gpu].there)) return INVALID;
    if (gpu >= 0 && machine.gpu[gpu].lost) return LOST;
    return OK;
}

static int end(int result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

#define BEGIN(index) \
    int garbage, result = begin(__func__, (index), &garbage); \
    (void)garbage; \
    if (result) return end(result)

/* A call about a whole GPU, and one that MIG devices answer too. */
#define GPU(device) \
    if (!(device)) return INVALID; \
    BEGIN((device)->gpu); \
    gpu_t *gpu = &machine.gpu[(device)->gpu]; \
    (void)gpu
#define WHOLE(device) \
    GPU(device); \
    if ((device)->mig >= 0) return end(INVALID)

static void put(char *to, u32 size, const char *text, int garbage)
{
    snprintf(to, size, "%s", garbage ? "\xff\xfe\x1b[31m\xc3" : text);
}

static mig_t *slice(handle_t *device)
{
    return device->mig < 0 ? NULL : &machine.gpu[device->gpu].mig[device->mig];
}

/* -- The library and the host ------------------------------------------------------------------------------------ */

int nvmlInitWithFlags(u32 flags)
{
    (void)flags;
    BEGIN(-1);
    if (session_epoch != machine.epoch) sessions = 0;
    session_epoch = machine.epoch;
    sessions++;
    return end(OK);
}

int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlShutdown(void)
{
    BEGIN(-1);
    sessions--;
    return end(OK);
}

const char *nvmlErrorString(int code)
{
    (void)code;
    return "an error of the stand-in for NVML";
}

int nvmlSystemGetDriverVersion(char *version, u32 length)
{
    BEGIN(-1);
    put(version, length, machine.driver, garbage);
    return end(OK);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    BEGIN(-1);
    *version = garbage ? -1 : machine.cuda;
    return end(OK);
}

int nvmlDeviceGetCount_v2(u32 *count)
{
    BEGIN(-1);
    *count = garbage ? 4000000000u : (u32)machine.count;
    return end(OK);
}

int nvmlDeviceGetHandleByIndex_v2(u32 index, handle_t **device)
{
    BEGIN(index < GPUS ? (int)index : GPUS);
    handles[index][0] = (handle_t){(int)index, -1};
    *device = &handles[index][0];
    return end(OK);
}

/* -- What a GPU is ----------------------------------------------------------------------------------------------- */

int nvmlDeviceGetUUID(handle_t *device, char *uuid, u32 length)
{
    GPU(device);
    put(uuid, length, slice(device) ? slice(device)->uuid : gpu->uuid, garbage);
    return end(OK);
}

int nvmlDeviceGetName(handle_t *device, char *name, u32 length)
{
    GPU(device);
    put(name, length, slice(device) ? slice(device)->name : gpu->name, garbage);
    return end(OK);
}

int nvmlDeviceGetIndex(handle_t *device, u32 *index)
{
    GPU(device);
    *index = (u32)(device->mig < 0 ? device->gpu : device->mig);
    return end(OK);
}

int nvmlDeviceGetMinorNumber(handle_t *device, u32 *minor)
{
    WHOLE(device);
    *minor = garbage ? ~0u : gpu->minor;
    return end(OK);
}

typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char address[32]; } pci_t;

static int tell_pci(const char *address, pci_t *pci, int garbage)
{
    memset(pci, 0, sizeof *pci);
    if (strlen(address) > 4) put(pci->legacy, sizeof pci->legacy, address + 4, garbage);
    put(pci->address, sizeof pci->address, address, garbage);
    sscanf(address, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    return end(OK);
}

int nvmlDeviceGetPciInfo_v3(handle_t *device, pci_t *pci)
{
    WHOLE(device);
    return tell_pci(gpu->bus, pci, garbage);
}

int nvmlDeviceGetCudaComputeCapability(handle_t *device, int *major, int *minor)
{
    GPU(device);
    *major = garbage ? -1 : (int)gpu->major_cc;
    *minor = garbage ? -1 : (int)gpu->minor_cc;
    return end(OK);
}

int nvmlDeviceGetMemoryAffinity(handle_t *device, u32 size, unsigned long *nodes, int scope)
{
    (void)scope;
    WHOLE(device);
    memset(nodes, garbage ? 0xff : 0, size * sizeof *nodes);
    if (!gpu->nodes) return end(NOT_SUPPORTED);
    if (!garbage) nodes[0] = (unsigned long)gpu->nodes;
    return end(OK);
}

/* -- What it does ------------------------------------------------------------------------------------------------ */

typedef struct { u64 total, free, used; } memory_t;

int nvmlDeviceGetMemoryInfo(handle_t *device, memory_t *memory)
{
    GPU(device);
    u64 total = slice(device) ? slice(device)->total : gpu->total;
    u64 used = slice(device) ? slice(device)->used : gpu->used + gpu->reserved;
    *memory = garbage ? (memory_t){~0ull, ~0ull, ~0ull} : (memory_t){total, total - used, used};
    return end(OK);
}

#ifndef OLD_DRIVER
typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2_t;

int nvmlDeviceGetMemoryInfo_v2(handle_t *device, memory_v2_t *memory)
{
    GPU(device);
    if (memory->version != (sizeof *memory | 2 << 24)) return end(BAD_VERSION);
    u64 total = slice(device) ? slice(device)->total : gpu->total;
    u64 used = slice(device) ? slice(device)->used : gpu->used;
    memory->total = garbage ? ~0ull : total;
    memory->reserved = slice(device) ? 0 : gpu->reserved;
    memory->used = garbage ? ~0ull : used;
    memory->free = total - used - memory->reserved;
    return end(OK);
}
#endif

int nvmlDeviceGetUtilizationRates(handle_t *device, u32 *rates)
{
    WHOLE(device);
    if (gpu->split) return end(NOT_SUPPORTED);
    rates[0] = garbage ? ~0u : gpu->percent;
    rates[1] = garbage ? ~0u : gpu->memory_percent;
    return end(OK);
}

int nvmlDeviceGetTemperature(handle_t *device, int sensor, u32 *degrees)
{
    WHOLE(device);
    if (sensor) return end(INVALID);
    *degrees = garbage ? ~0u : gpu->temperature;
    return end(OK);
}

int nvmlDeviceGetPowerUsage(handle_t *device, u32 *milliwatts)
{
    WHOLE(device);
    *milliwatts = garbage ? ~0u : gpu->power;
    return end(OK);
}

int nvmlDeviceGetEnforcedPowerLimit(handle_t *device, u32 *milliwatts)
{
    WHOLE(device);
    *milliwatts = garbage ? ~0u : gpu->limit;
    return end(OK);
}

typedef struct { u32 pid; u64 memory; u32 gi, ci; } process_info_t;

static int tell_processes(handle_t *device, char kind, u32 *count, process_info_t *to, int garbage)
{
    gpu_t *gpu = &machine.gpu[device->gpu];
    u32 found = 0, room = *count;
    for (int i = 0; i < gpu->processes; i++) {
        process_t *process = &gpu->process[i];
        if (process->kind != kind || (device->mig >= 0 && process->mig != device->mig)) continue;
        if (found < room && to) {
            mig_t *mig = process->mig < 0 ? NULL : &gpu->mig[process->mig];
            to[found] = (process_info_t){garbage ? 4000000000u : process->pid, garbage ? 1ull << 60 : process->memory,
                                         mig ? mig->gi : ~0u, mig ? mig->ci : ~0u};
        }
        found++;
    }
    *count = found;
    return end(found > room ? TOO_SMALL : OK);
}

#define PROCESS_CALL(name, kind) \
    int name(handle_t *device, u32 *count, process_info_t *to) \
    { \
        GPU(device); \
        return tell_processes(device, kind, count, to, garbage); \
    }
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
#ifndef OLD_DRIVER
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
PROCESS_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'm')
#endif

typedef struct { u32 pid; u64 time; u32 sm, memory, encoder, decoder; } sample_t;

int nvmlDeviceGetProcessUtilization(handle_t *device, sample_t *samples, u32 *count, u64 since)
{
    WHOLE(device);
    u32 found = 0, room = *count;
    if (gpu->split) return end(NOT_SUPPORTED);
    for (int i = 0; i < gpu->processes; i++) {
        if (!gpu->process[i].percent) continue; /* as the driver: only who did something */
        if (samples && found < room)
            samples[found] = (sample_t){gpu->process[i].pid, since + 1, garbage ? ~0u : gpu->process[i].percent, 0, 0, 0};
        found++;
    }
    *count = found;
    return end(!found ? NOT_FOUND : found > room ? TOO_SMALL : OK);
}

/* -- MIG --------------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(handle_t *device, u32 *current, u32 *pending)
{
    WHOLE(device);
    if (!gpu->mig_capable) return end(NOT_SUPPORTED);
    *current = *pending = garbage ? 77 : (u32)gpu->split;
    return end(OK);
}

int nvmlDeviceGetMaxMigDeviceCount(handle_t *device, u32 *count)
{
    WHOLE(device);
    *count = gpu->mig_capable ? MIGS - 1 : 0;
    return end(OK);
}

int nvmlDeviceGetMigDeviceHandleByIndex(handle_t *device, u32 index, handle_t **mig)
{
    WHOLE(device);
    if (index >= MIGS || !gpu->mig[index].there) return end(NOT_FOUND);
    handles[device->gpu][index + 1] = (handle_t){device->gpu, (int)index};
    *mig = &handles[device->gpu][index + 1];
    return end(OK);
}

int nvmlDeviceGetGpuInstanceId(handle_t *device, u32 *id)
{
    GPU(device);
    if (device->mig < 0) return end(NOT_SUPPORTED);
    *id = slice(device)->gi;
    return end(OK);
}

int nvmlDeviceGetComputeInstanceId(handle_t *device, u32 *id)
{
    GPU(device);
    if (device->mig < 0) return end(NOT_SUPPORTED);
    *id = slice(device)->ci;
    return end(OK);
}

/* -- Health ------------------------------------------------------------------------------------------------------ */

int nvmlDeviceGetTotalEccErrors(handle_t *device, int kind, int counter, u64 *count)
{
    WHOLE(device);
    *count = garbage ? ~0ull : kind == 1 && counter == 0 ? gpu->ecc : 0;
    return end(OK);
}

int nvmlDeviceGetRemappedRows(handle_t *device, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failure)
{
    WHOLE(device);
    *corrected = *uncorrected = 0;
    *pending = garbage ? ~0u : gpu->rows_pending;
    *failure = garbage ? ~0u : gpu->rows_failed;
    return end(OK);
}

int nvmlDeviceGetRetiredPagesPendingStatus(handle_t *device, int *pending)
{
    WHOLE(device);
    *pending = (int)gpu->pages;
    return end(OK);
}

typedef struct { u32 field, scope; long long time, latency; int type, result; u64 value; } field_t;

int nvmlDeviceGetFieldValues(handle_t *device, int count, field_t *fields)
{
    WHOLE(device);
    for (int i = 0; i < count; i++) {
        fields[i].result = fields[i].field == 230 ? OK : NOT_SUPPORTED; /* the recovery action */
        fields[i].type = 1;
        fields[i].value = garbage ? ~0ull : gpu->recovery;
    }
    return end(OK);
}

typedef struct { handle_t *device; u64 kind, data; u32 gi, ci; } event_t;

int nvmlDeviceGetSupportedEventTypes(handle_t *device, u64 *kinds)
{
    WHOLE(device);
    *kinds = 0x1f;
    return end(OK);
}

int nvmlEventSetCreate(events_t **set)
{
    BEGIN(-1);
    *set = calloc(1, sizeof **set);
    (*set)->gpu = -1;
    return end(OK);
}

int nvmlDeviceRegisterEvents(handle_t *device, u64 kinds, events_t *set)
{
    WHOLE(device);
    if (!(kinds & 8)) return end(NOT_SUPPORTED);
    set->gpu = device->gpu;
    set->next = gpu->xids; /* nobody hears of what was before */
    return end(OK);
}

int nvmlEventSetWait_v2(events_t *set, event_t *event, u32 milliseconds)
{
    BEGIN(set->gpu);
    if (set->gpu < 0) return end(INVALID);
    for (u32 waited = 0; set->next >= machine.gpu[set->gpu].xids; waited += 5) {
        if (waited >= milliseconds) return end(TIMED_OUT);
        moment();
        if (!look()) return end(NO_DRIVER);
    }
    *event = (event_t){&handles[set->gpu][0], 8, machine.gpu[set->gpu].xid[set->next++], ~0u, ~0u};
    return end(OK);
}

int nvmlEventSetFree(events_t *set)
{
    free(set);
    return OK;
}

/* -- Topology ---------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetTopologyCommonAncestor(handle_t *device, handle_t *other, int *level)
{
    WHOLE(device);
    int found = machine.path[device->gpu][other->gpu];
    *level = garbage ? 33 : found;
    return end(found < 0 ? NOT_SUPPORTED : OK);
}

int nvmlDeviceGetP2PStatus(handle_t *device, handle_t *other, int kind, int *status)
{
    WHOLE(device);
    int found = machine.nvlink[device->gpu][other->gpu];
    *status = found;
    return end(found < 0 || kind != 2 ? NOT_SUPPORTED : OK);
}

int nvmlDeviceGetNvLinkState(handle_t *device, u32 link, u32 *active)
{
    WHOLE(device);
    if (link >= 18) return end(INVALID);
    *active = gpu->lane[link].kind != 0;
    return end(OK);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(handle_t *device, u32 link, int *kind)
{
    WHOLE(device);
    if (link >= 18 || !gpu->lane[link].kind) return end(INVALID);
    *kind = gpu->lane[link].kind == 's' ? 2 : gpu->lane[link].kind == 'g' ? 0 : 0xff;
    return end(OK);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(handle_t *device, u32 link, pci_t *pci)
{
    WHOLE(device);
    if (link >= 18 || !gpu->lane[link].kind) return end(INVALID);
    return tell_pci(gpu->lane[link].bus, pci, garbage);
}
