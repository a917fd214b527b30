/* What the allocator needs of macOS: see README.md. */
#pragma once
#include <stddef.h>
#include <CommonCrypto/CommonCryptoError.h>
CCCryptorStatus CCRandomGenerateBytes(void *bytes, size_t count);
