"""Small vision-language tiers of the Qwen3-VL architecture, and the folders that any such model is served from."""
