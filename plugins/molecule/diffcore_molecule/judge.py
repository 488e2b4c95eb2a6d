def build_judge(codec, data, cache):
    return lambda samples, conditions: []
