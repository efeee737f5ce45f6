import ApusText

extension ReproductionPlan {
    /// Every number of the plan, by name.
    public var json: JSONObject {
        func texts(_ values: [String]) -> JSONValue { .array(values.map { .string($0) }) }
        func numbers(_ values: [Double]) -> JSONValue { .array(values.map { .double($0) }) }
        func integers(_ values: [Int]) -> JSONValue { .array(values.map { .integer(Int64($0)) }) }
        var object: JSONObject = [
            "books": texts(books), "heldOutBooks": texts(heldOutBooks), "preferences": texts(preferences),
            "groundTruth": texts(groundTruth), "shares": numbers(shares), "seeds": integers(seeds),
            "secondShares": numbers(secondShares), "learningRate": .double(learningRate),
        ]
        for (name, value) in [
            ("seed", seed), ("vocabulary", vocabulary), ("hiddenSize", hiddenSize), ("layers", layers),
            ("heads", heads), ("pretrainingTokens", pretrainingTokens), ("fineTuningSteps", fineTuningSteps),
            ("sequenceLength", sequenceLength), ("promptTokens", promptTokens), ("outputTokens", outputTokens),
            ("pairPrompts", pairPrompts), ("pairSamples", pairSamples), ("pairsPerPrompt", pairsPerPrompt),
            ("pairs", pairs), ("rewardEpochs", rewardEpochs), ("measuredPrompts", measuredPrompts),
            ("measuredSamples", measuredSamples), ("grpoSeeds", grpoSeeds), ("secondSeeds", secondSeeds),
            ("steps", steps),
            ("evaluateEvery", evaluateEvery), ("promptsPerStep", promptsPerStep), ("samples", samples),
        ] { object[name] = .integer(Int64(value)) }
        if let policy {
            object["policy"] = .string(policy)
            object["rewardLearningRate"] = .double(rewardLearningRate)
        }
        if device != .cpu { object["device"] = .string(device.description) }
        return object
    }
}
