/** The text of a C string, which may be NULL (then it is empty). Borrows it. */
static inline klatch_str_t klatch_str(const char *text) {
    klatch_str_t view;
    view.ptr = text;
    view.len = text ? strlen(text) : 0;
    return view;
}

/** A text of so many bytes. Borrows it. */
static inline klatch_str_t klatch_str_n(const char *text, size_t len) {
    klatch_str_t view;
    view.ptr = text;
    view.len = len;
    return view;
}

/** So many bytes. Borrows them. */
static inline klatch_bytes_t klatch_bytes(const void *bytes, size_t len) {
    klatch_bytes_t view;
    view.ptr = (const uint8_t *)bytes;
    view.len = len;
    return view;
}

/** The data of a message whose JSON is a C string, which may be NULL (then it is empty, and refused). Borrows it. */
static inline klatch_bytes_t klatch_json(const char *json) {
    return klatch_bytes(json, json ? strlen(json) : 0);
}
