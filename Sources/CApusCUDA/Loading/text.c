#define _GNU_SOURCE
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void apus_text_append(apus_text *text, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int added = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (added >= 0) {
        size_t needed = text->length + (size_t)added + 1;
        if (needed > text->capacity) {
            char *grown = realloc(text->text, needed * 2);
            if (grown) {
                text->text = grown;
                text->capacity = needed * 2;
            }
        }
        if (needed <= text->capacity) {
            vsnprintf(text->text + text->length, (size_t)added + 1, format, again);
            text->length += (size_t)added;
        }
    }
    va_end(again);
}

char *apus_text_take(apus_text *text) {
    char *result = text->text ? text->text : strdup("");
    *text = (apus_text){0};
    return result;
}
