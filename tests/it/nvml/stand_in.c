/* A stand-in for NVIDIA's management library with three GPUs whose figures are known, for tests/it/nvml.rs.
 *
 * Compiled with -DOLD it lacks the functions that old drivers lack. The environment says the rest:
 *   STAND_IN_LOST           a file; while it exists, GPU 2 has fallen off the bus
 *   STAND_IN_NO_PERMISSION  if set, power may not be read
 *   STAND_IN_FORBIDDEN      an index; that GPU belongs to another job
 *   STAND_IN_LOG            a file to which every energy reading is appended: index, millijoules
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, LOST = 15 };
enum { GPUS = 3 };

typedef struct { int index; unsigned long long millijoules; } Gpu;
static Gpu gpus[GPUS] = {{0, 5000000}, {1, 6000000}, {2, 7000000}};

static int gone(const Gpu *gpu) {
    const char *file = getenv("STAND_IN_LOST");
    return gpu->index == 2 && file && access(file, F_OK) == 0;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "an error"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = GPUS; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    const char *forbidden = getenv("STAND_IN_FORBIDDEN");
    if (index >= GPUS) return INVALID;
    if (forbidden && (unsigned)atoi(forbidden) == index) return NO_PERMISSION;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(Gpu *gpu, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%d0000000-feed-beef-cafe-000000000000", gpu->index);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
    for (int at = 0; at < GPUS; at++) {
        char own[96];
        nvmlDeviceGetUUID(&gpus[at], own, sizeof own);
        if (strcmp(own, uuid) == 0) { *gpu = &gpus[at]; return SUCCESS; }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(Gpu *gpu, char *name, unsigned length) {
    snprintf(name, length, "Stand-in A%d", gpu->index);
    return SUCCESS;
}

typedef struct { unsigned gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(Gpu *gpu, Utilization *rates) {
    if (gone(gpu)) return LOST;
    rates->gpu = 40 + 10 * gpu->index;
    rates->memory = 7;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *milliwatts) {
    if (gone(gpu)) return LOST;
    if (getenv("STAND_IN_NO_PERMISSION")) return NO_PERMISSION;
    *milliwatts = 100500 + 50000 * gpu->index;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Gpu *gpu, int sensor, unsigned *celsius) {
    if (gone(gpu)) return LOST;
    if (sensor != 0) return INVALID;
    *celsius = 50 + gpu->index;
    return SUCCESS;
}

#ifndef OLD
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory2 *memory) {
    if (gone(gpu)) return LOST;
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID;
    memory->total = 16ull * (gpu->index + 1) << 30;
    memory->used = 1000000001ull * (gpu->index + 1);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
    if (gone(gpu)) return LOST;
    gpu->millijoules += 250000 + 1000 * gpu->index;
    *millijoules = gpu->millijoules;
    const char *log = getenv("STAND_IN_LOG");
    FILE *file = log ? fopen(log, "a") : NULL;
    if (file) { fprintf(file, "%d %llu\n", gpu->index, gpu->millijoules); fclose(file); }
    return SUCCESS;
}
#endif
