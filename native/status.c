#include "gpt2c.h"

const char *gpt2c_version(void) { return GPT2C_VERSION; }

const char *gpt2c_status_message(gpt2c_status status) {
    switch (status) {
    case GPT2C_STATUS_OK: return "no error";
    case GPT2C_STATUS_INVALID_ARGUMENT: return "an argument is missing or outside its range";
    case GPT2C_STATUS_OUT_OF_MEMORY: return "out of memory";
    case GPT2C_STATUS_UNSUPPORTED: return "this machine cannot run that instruction set";
    case GPT2C_STATUS_NOT_READY: return "the model is not ready: a tensor is missing, or it is frozen or not yet frozen";
    case GPT2C_STATUS_BAD_TOKEN: return "a token id is outside the vocabulary";
    case GPT2C_STATUS_CONTEXT_FULL: return "more tokens than the context holds";
    case GPT2C_STATUS_BUSY: return "the session is in a call of another thread";
    case GPT2C_STATUS_CANCELLED: return "the call was cancelled";
    case GPT2C_STATUS_IO_ERROR: return "a file could not be opened, mapped or written";
    case GPT2C_STATUS_BAD_FILE: return "not a packed file of this version and model, or a damaged one";
    case GPT2C_STATUS_BAD_WEIGHTS: return "damaged weights: a scale is negative, too large or not a number";
    }
    return "unknown status";
}
