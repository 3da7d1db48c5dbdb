"""Florence-2 as a reader of signs: its folder in the model repository, beside `sign_text` or instead of it."""
