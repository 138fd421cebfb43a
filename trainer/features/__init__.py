"""Rows to arrays: vocabularies, tokenizers, scaling, and the cache of encoded rows."""
