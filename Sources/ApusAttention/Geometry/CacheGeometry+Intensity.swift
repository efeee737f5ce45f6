/// Arithmetic intensity: operations per byte that a decode step reads and writes.
extension CacheGeometry {
    /// Operations (a multiply and an add are two) of attention for `queryTokens` tokens of one sequence over `context`
    /// cached tokens, in one layer.
    public func operations(context: Int, queryTokens: Int = 1) -> Double {
        2 * Double(queryTokens) * Double(queryHeads) * Double(context) * Double(queryWidth + outputWidth)
    }

    /// Elements moved for the same: each cached element once, each query and each output once.
    public func elementsMoved(context: Int, queryTokens: Int = 1) -> Double {
        Double(context) * Double(elementsPerToken)
            + Double(queryTokens) * Double(queryHeads) * Double(queryWidth + outputWidth)
    }

    /// Operations per byte, from the geometry's own widths.
    public func arithmeticIntensity(context: Int, queryTokens: Int = 1, bytesPerElement: Double = 2) -> Double {
        operations(context: context, queryTokens: queryTokens)
            / (elementsMoved(context: context, queryTokens: queryTokens) * bytesPerElement)
    }

    /// The paper's intensity in 2-byte elements, `2 L h_q / (2 h_q + m_kv (h_q / g_q) L)` times the query tokens: it
    /// counts the state alone and neglects the RoPE part.
    public func nominalIntensity(context: Int, queryTokens: Int = 1) -> Double {
        let heads = Double(queryHeads)
        let length = Double(context)
        return Double(queryTokens) * 2 * length * heads
            / (2 * heads + Double(stateMultiplicity * groups) * length)
    }

    /// The limit of ``nominalIntensity(context:queryTokens:)`` for long contexts: `2 g_q / m_kv` times the query tokens.
    public func longContextIntensity(queryTokens: Int = 1) -> Double {
        Double(queryTokens) * 2 * Double(headsPerGroup) / Double(stateMultiplicity)
    }
}
