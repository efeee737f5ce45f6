import Yams

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

extension Recipe {
    /// Reads a recipe and checks it.
    /// - Parameters:
    ///   - path: a YAML file.
    ///   - overrides: arguments `section.key=value`, which hold over the file; of equal keys the last one holds.
    /// - Throws: ``RecipeError`` with every problem found.
    public static func read(_ path: String, overrides: [String] = []) throws(RecipeError) -> Recipe {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw RecipeError(problems: [.unreadable(file: path, reason: "there is no such file, or it is a folder")])
        }
        guard let text = String(validating: data, as: UTF8.self) else {
            throw RecipeError(problems: [.unreadable(file: path, reason: "it is not UTF-8")])
        }
        return try parse(text, name: path, overrides: overrides)
    }

    /// Reads a recipe from text and checks it.
    /// - Parameters:
    ///   - yaml: the file's text.
    ///   - name: what errors call it.
    ///   - overrides: as in ``read(_:overrides:)``.
    /// - Throws: ``RecipeError`` with every problem found.
    public static func parse(
        _ yaml: String, name: String = "recipe", overrides: [String] = []
    ) throws(RecipeError) -> Recipe {
        var reader = RecipeReader(name: name)
        reader.read(yaml)
        for argument in overrides { reader.override(argument) }
        // Sizes are checked only where every value could be read: otherwise a wrong type would be told twice.
        if reader.problems.isEmpty { reader.problems = reader.recipe.problems(given: reader.places) }
        guard reader.problems.isEmpty else { throw RecipeError(problems: reader.problems) }
        return reader.recipe
    }
}

/// Fills a recipe from a file and arguments, and gathers what is wrong with them.
private struct RecipeReader {
    var recipe = Recipe()
    var problems: [RecipeProblem] = []
    /// Where values were given, by key.
    var places: [String: RecipePlace] = [:]
    private let name: String

    init(name: String) { self.name = name }

    mutating func read(_ yaml: String) {
        let root: Node?
        do {
            root = try Yams.compose(yaml: yaml)
        } catch {
            problems.append(syntax(error))
            return
        }
        // An empty file is a recipe of defaults.
        guard let root, RecipeValue(root) != .null else { return }
        guard let sections = root.mapping else {
            let found = RecipeValue(root).found
            problems.append(.syntax(place: .whole(name), reason: "\(found) where sections should be"))
            return
        }
        for (key, node) in sections {
            let place = location(of: key)
            let section = key.string ?? RecipeValue(key).found
            if Recipe.fields.contains(where: { $0.path == section }) {
                set(section, RecipeValue(node), place)
                continue
            }
            guard Recipe.fields.contains(where: { $0.section == section }) else {
                problems.append(unknown(section, place))
                continue
            }
            if RecipeValue(node) == .null { continue }
            guard let members = node.mapping else {
                problems.append(
                    .type(place: place, key: section, expected: "keys and values", found: RecipeValue(node).found))
                continue
            }
            for (key, node) in members {
                set("\(section).\(key.string ?? RecipeValue(key).found)", RecipeValue(node), location(of: key))
            }
        }
    }

    mutating func override(_ argument: String) {
        guard let sign = argument.firstIndex(of: "="), sign > argument.startIndex else {
            problems.append(.noAssignment(argument: argument))
            return
        }
        let key = String(argument[..<sign])
        let text = String(argument[argument.index(after: sign)...])
        do {
            let node = try Yams.compose(yaml: text)
            set(key, node.map { RecipeValue($0) } ?? .null, .override(argument))
        } catch {
            // A path such as "a: b" is no YAML value, yet it is text.
            set(key, .scalar(text, isQuoted: true), .override(argument))
        }
    }

    private mutating func set(_ key: String, _ value: RecipeValue, _ place: RecipePlace) {
        guard let field = Recipe.fields.first(where: { $0.path == key }) else {
            problems.append(unknown(key, place))
            return
        }
        if field.set(&recipe, value) {
            places[key] = place
        } else {
            problems.append(.type(place: place, key: key, expected: field.expected, found: value.found))
        }
    }

    private func unknown(_ key: String, _ place: RecipePlace) -> RecipeProblem {
        let paths = Recipe.fields.map(\.path)
        guard let dot = key.firstIndex(of: ".") else {
            // A section, or a key without its section.
            if let field = Recipe.fields.first(where: { NearestName.folded($0.name) == NearestName.folded(key) }) {
                return .unknownKey(place: place, key: key, nearest: field.path)
            }
            let sections = Recipe.fields.map { $0.section.isEmpty ? $0.path : String($0.section) }
            return .unknownKey(place: place, key: key, nearest: NearestName.nearest(to: key, among: sections))
        }
        let name = key[key.index(after: dot)...]
        // The same name in another section is nearer than another name in this one.
        if let field = Recipe.fields.first(where: { NearestName.folded($0.name) == NearestName.folded(name) }) {
            return .unknownKey(place: place, key: key, nearest: field.path)
        }
        let siblings = Recipe.fields.filter { $0.section == key[..<dot] }.map(\.path)
        return .unknownKey(
            place: place, key: key, nearest: NearestName.nearest(to: key, among: siblings.isEmpty ? paths : siblings))
    }

    private func location(of key: Node) -> RecipePlace {
        key.mark.map { .file(name, line: $0.line) } ?? .whole(name)
    }

    private func syntax(_ error: any Error) -> RecipeProblem {
        switch error as? YamlError {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            .syntax(place: .file(name, line: mark.line), reason: problem)
        case .duplicatedKeysInMapping(let duplicates, let context):
            .syntax(
                place: .file(name, line: context.mark.line),
                reason: "keys twice: \(duplicates.map { "\($0)" }.joined(separator: ", "))")
        default: .syntax(place: .whole(name), reason: "\(error)")
        }
    }
}
