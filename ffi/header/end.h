
#ifdef __cplusplus
}
#endif

#endif /* KLATCH_H */
