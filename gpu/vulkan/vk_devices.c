/* Devices of Vulkan, through the system's loader. */
#define VK_NO_PROTOTYPES
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <vulkan/vulkan.h>

#include "gpu/gpu.h"

static const char *const libraries[] = { "libvulkan.so.1", "libvulkan.so", NULL };

static sg_gpu_kind kind_of(VkPhysicalDeviceType t) {
    switch (t) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return SG_GPU_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return SG_GPU_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return SG_GPU_SOFTWARE;
    default: return SG_GPU_OTHER;
    }
}

static void describe(PFN_vkGetInstanceProcAddr get, VkInstance instance, VkPhysicalDevice id, sg_gpu_device *d) {
    const PFN_vkGetPhysicalDeviceProperties properties =
        (PFN_vkGetPhysicalDeviceProperties)get(instance, "vkGetPhysicalDeviceProperties");
    const PFN_vkGetPhysicalDeviceMemoryProperties memory =
        (PFN_vkGetPhysicalDeviceMemoryProperties)get(instance, "vkGetPhysicalDeviceMemoryProperties");
    *d = (sg_gpu_device){ .api = SG_GPU_VULKAN, .kind = SG_GPU_OTHER };
    VkPhysicalDeviceProperties p;
    VkPhysicalDeviceMemoryProperties m;
    properties(id, &p);
    memory(id, &m);
    snprintf(d->name, sizeof d->name, "%.127s", p.deviceName);
    snprintf(d->driver, sizeof d->driver, "Vulkan %u.%u, driver %u.%u.%u", VK_API_VERSION_MAJOR(p.apiVersion),
             VK_API_VERSION_MINOR(p.apiVersion), VK_API_VERSION_MAJOR(p.driverVersion), VK_API_VERSION_MINOR(p.driverVersion),
             VK_API_VERSION_PATCH(p.driverVersion));
    d->kind = kind_of(p.deviceType);
    d->max_buffer = p.limits.maxStorageBufferRange;
    for (uint32_t i = 0; i < m.memoryHeapCount; i++)
        if (m.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) d->memory += m.memoryHeaps[i].size;
}

size_t sg_gpu_vk_list(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    void *lib = sg_gpu_open_library(libraries, why, why_size);
    if (!lib) return 0;
    PFN_vkGetInstanceProcAddr get;
    *(void **)&get = dlsym(lib, "vkGetInstanceProcAddr");
    const PFN_vkCreateInstance create = get ? (PFN_vkCreateInstance)get(NULL, "vkCreateInstance") : NULL;
    if (!create) {
        snprintf(why, why_size, "the loader library is no Vulkan loader");
        return 0;
    }
    const VkApplicationInfo app = { .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_1 };
    const VkInstanceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app };
    VkInstance instance = NULL;
    const VkResult rc = create(&info, NULL, &instance);
    if (rc != VK_SUCCESS) {
        snprintf(why, why_size, "the loader finds no driver (error %d)", (int)rc);
        return 0;
    }
    const PFN_vkEnumeratePhysicalDevices enumerate =
        (PFN_vkEnumeratePhysicalDevices)get(instance, "vkEnumeratePhysicalDevices");
    const PFN_vkDestroyInstance destroy = (PFN_vkDestroyInstance)get(instance, "vkDestroyInstance");
    VkPhysicalDevice ids[8];
    uint32_t n_ids = 8;
    const VkResult listed = enumerate(instance, &n_ids, ids);
    size_t n = 0;
    if (listed == VK_SUCCESS || listed == VK_INCOMPLETE)
        for (uint32_t i = 0; i < n_ids && n < cap; i++) describe(get, instance, ids[i], &out[n++]);
    destroy(instance, NULL);
    return n;
}
