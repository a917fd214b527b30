/* What the allocator needs of macOS: see README.md. */
#pragma once
#include <stdint.h>
typedef int32_t CCCryptorStatus;
enum { kCCSuccess = 0 };
