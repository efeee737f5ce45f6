/// A token that is looked for in the text itself, before the model sees it.
public struct AddedToken: Sendable, Equatable {
    /// The token's id.
    public let id: Int32
    /// The token as written in the text.
    public let content: String
    /// Whether it steers the model (`<|im_start|>`) rather than being text.
    public let isSpecial: Bool
    /// Whether it counts only where no letter, digit or `_` touches it.
    let isSingleWord: Bool
    /// Whether it swallows white space on its left.
    let stripsLeft: Bool
    /// Whether it swallows white space on its right.
    let stripsRight: Bool
    /// Whether it is looked for in the normalised text, in its own normalised form.
    let isNormalized: Bool

    init(
        id: Int32, content: String, isSpecial: Bool, isSingleWord: Bool = false, stripsLeft: Bool = false,
        stripsRight: Bool = false, isNormalized: Bool = false
    ) {
        self.id = id
        self.content = content
        self.isSpecial = isSpecial
        self.isSingleWord = isSingleWord
        self.stripsLeft = stripsLeft
        self.stripsRight = stripsRight
        self.isNormalized = isNormalized
    }
}
