extension Recipe {
    /// The recipe as YAML with every key in a fixed order: what a checkpoint stores. Reading it gives an equal recipe.
    public var yaml: String {
        var result = ""
        var section: Substring = ""
        for field in Self.fields {
            if field.section != section {
                section = field.section
                result += "\(section):\n"
            }
            result += "\(section.isEmpty ? "" : "  ")\(field.name): \(field.yaml(self))\n"
        }
        return result
    }

    /// The keys whose values differ in `other`, in the order of the file.
    public func changes(to other: Recipe) -> [RecipeChange] {
        Self.fields.compactMap { field in
            let (old, new) = (field.yaml(self), field.yaml(other))
            return old == new ? nil : RecipeChange(key: field.path, old: old, new: new, effect: field.effect)
        }
    }
}

/// A key whose value differs between two recipes.
public struct RecipeChange: Sendable, Equatable, CustomStringConvertible {
    /// "model.hidden_size".
    public let key: String
    /// The first recipe's value as YAML.
    public let old: String
    /// The second recipe's value as YAML.
    public let new: String
    /// What the change means for a run that is to be resumed.
    public let effect: ResumeEffect

    /// "model.hidden_size: 256 -> 512".
    public var description: String { "\(key): \(old) -> \(new)" }
}
